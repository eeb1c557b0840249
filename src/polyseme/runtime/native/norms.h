/* The residual sum, its norm and what the next linear takes, a token at a time; the first states; gates. */

INLINE void normalise(const float *x, float *y, long size, int kind, const float *weight, const float *bias,
                      float eps) {
    long i;
    float mean = 0, scale;
    if (kind == NO_NORM) {
        memcpy(y, x, (size_t)size * 4);
        return;
    }
    if (kind == LAYER_NORM) {
        vf sums[4] = {};
        for (i = 0; i + 4 * WIDTH <= size; i += 4 * WIDTH) EACH(j, 4) sums[j] += load(x + i + j * WIDTH);
        for (; i + WIDTH <= size; i += WIDTH) sums[0] += load(x + i);
        mean = added_up(joined_sums(sums));
        for (; i < size; i++) mean += x[i];
        mean /= size;
    }
    vf squares[4] = {};
    for (i = 0; i + 4 * WIDTH <= size; i += 4 * WIDTH) EACH(j, 4) {
            const vf away = load(x + i + j * WIDTH) - mean;
            squares[j] += away * away;
        }
    for (; i + WIDTH <= size; i += WIDTH) {
        const vf away = load(x + i) - mean;
        squares[0] += away * away;
    }
    float square = added_up(joined_sums(squares));
    for (; i < size; i++) square += (x[i] - mean) * (x[i] - mean);
    scale = 1.0f / sqrtf(square / size + eps);
    for (i = 0; i + WIDTH <= size; i += WIDTH)
        store(y + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
    for (; i < size; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

INLINE void add_rows_of(float *to, const void *one, int type, const void *two, int two_type, long size) {
    long i = 0;
    for (; i + WIDTH <= size; i += WIDTH)
        store(to + i, load_as(at(one, type, i), type) + load_as(at(two, two_type, i), two_type));
    read_row(to + i, at(one, type, i), type, size - i, 0);
    read_row(to + i, at(two, two_type, i), two_type, size - i, 1);
}

INLINE void add_rows(float *to, const void *one, int type, const void *two, int two_type, long size) {
    if (type == BF16 && two_type == BF16)
        add_rows_of(to, one, BF16, two, BF16, size);
    else if (two_type == BF16)
        add_rows_of(to, one, F32, two, BF16, size);
    else
        add_rows_of(to, one, type, two, F32, size);
}

/* `kept` gets the sum, or with `keeps_norm` its norm; `ready` the norm, unless it is NULL. */
int native_norm(long tokens, long size, const void *residual, int residual_type, const void *added,
                int added_type, int kind, const float *weight, const float *bias, float eps, int keeps_norm,
                void *kept, int kept_type, void *ready, int ready_type, float *scales, int32_t *zeros) {
    float *sum = malloc((size_t)size * 8), *normed = sum + size;
    if (!sum) return 1;
    for (long token = 0; token < tokens; token++) {
        const void *one = at(residual, residual_type, token * size);
        if (added)
            add_rows(sum, one, residual_type, at(added, added_type, token * size), added_type, size);
        else
            read_row(sum, one, residual_type, size, 0);
        normalise(sum, normed, size, kind, weight, bias, eps);
        if (kept) hand_out(keeps_norm ? normed : sum, size, token, kept, kept_type, NULL, NULL);
        if (ready) hand_out(normed, size, token, ready, ready_type, scales, zeros);
    }
    free(sum);
    return 0;
}

/* Token, place and segment, each a row of a float32 table (NULL: none), summed and normalised. */
int native_first_states(long tokens, long size, const int64_t *ids, const float *table,
                        const int64_t *place_ids, const float *places, const int64_t *segment_ids,
                        const float *segments, int kind, const float *weight, const float *bias, float eps,
                        int keeps_norm, void *kept, int kept_type, void *ready, int ready_type, float *scales,
                        int32_t *zeros) {
    float *sum = malloc((size_t)size * 8), *normed = sum + size;
    if (!sum) return 1;
    for (long token = 0; token < tokens; token++) {
        read_row(sum, table + ids[token] * size, F32, size, 0);
        if (places) read_row(sum, places + place_ids[token] * size, F32, size, 1);
        if (segments) read_row(sum, segments + (segment_ids ? segment_ids[token] : 0) * size, F32, size, 1);
        normalise(sum, normed, size, kind, weight, bias, eps);
        if (kept) hand_out(keeps_norm ? normed : sum, size, token, kept, kept_type, NULL, NULL);
        if (ready) hand_out(normed, size, token, ready, ready_type, scales, zeros);
    }
    free(sum);
    return 0;
}

/* Two states of a token multiplied number by number, `type` both. */
int native_gate(long tokens, long size, const void *states, const void *gates, int type, void *out, int out_type,
                float *scales, int32_t *zeros) {
    float *row = malloc((size_t)size * 8), *gate = row + size;
    if (!row) return 1;
    for (long token = 0; token < tokens; token++) {
        read_row(row, at(states, type, token * size), type, size, 0);
        read_row(gate, at(gates, type, token * size), type, size, 0);
        for (long i = 0; i < size; i++) row[i] *= gate[i];
        hand_out(row, size, token, out, out_type, scales, zeros);
    }
    free(row);
    return 0;
}
