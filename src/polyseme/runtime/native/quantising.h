/* Rows of numbers to eight bits, each with a scale and a zero of its own. */

INLINE void quantise_row(const float *x, long size, uint8_t *values, float *scale, int32_t *zero) {
    vf low[2] = {}, high[2] = {};
    long i = 0;
    for (; i + COLUMNS <= size; i += COLUMNS) EACH(j, 2) {
            low[j] = smaller(low[j], load(x + i + j * WIDTH));
            high[j] = larger(high[j], load(x + i + j * WIDTH));
        }
    for (; i + WIDTH <= size; i += WIDTH) {
        low[0] = smaller(low[0], load(x + i));
        high[0] = larger(high[0], load(x + i));
    }
    float lowest = -largest(-smaller(low[0], low[1])), highest = largest(larger(high[0], high[1]));
    for (; i < size; i++) {
        lowest = x[i] < lowest ? x[i] : lowest;
        highest = x[i] > highest ? x[i] : highest;
    }
    float step = (highest - lowest) / LEVELS;
    step = step > 1.17549435e-38f ? step : 1.17549435e-38f;
    const float inverse = 1.0f / step, nought = rintf(-lowest * inverse);
    *scale = step;
    *zero = (int32_t)nought;
    for (i = 0; i + WIDTH <= size; i += WIDTH) {
        /* Rounded by what is lost beside 1.5 · 2^23, whose last byte then holds the whole number. */
        const vf level = smaller(larger(load(x + i) * inverse + nought, splat(0.0f)), splat(LEVELS));
        store_last_bytes(values + i, (vu)(level + 12582912.0f));
    }
    for (; i < size; i++) {
        const float whole = rintf(x[i] * inverse + nought);
        values[i] = (uint8_t)(whole < 0 ? 0 : whole > LEVELS ? LEVELS : whole);
    }
}

INLINE void hand_out(const float *row, long size, long token, void *to, int type, float *scales,
                     int32_t *zeros) {
    if (type == U8)
        quantise_row(row, size, (uint8_t *)to + token * size, scales + token, zeros + token);
    else
        write_row((void *)at(to, type, token * size), type, row, size);
}

int native_quantise(long tokens, long size, const void *states, int type, uint8_t *values, float *scales,
                    int32_t *zeros) {
    float *row = malloc((size_t)size * 4);
    if (!row) return 1;
    for (long token = 0; token < tokens; token++) {
        read_row(row, at(states, type, token * size), type, size, 0);
        quantise_row(row, size, values + token * size, scales + token, zeros + token);
    }
    free(row);
    return 0;
}
