/* Rows of numbers to eight bits, each with a scale and a zero of its own. */

INLINE void quantise_row(const float *x, long size, uint8_t *values, float *scale, int32_t *zero) {
    vf low = {}, high = {};
    long i = 0;
    for (; i + WIDTH <= size; i += WIDTH) {
        low = smaller(low, load(x + i));
        high = larger(high, load(x + i));
    }
    float lowest = -largest(-low), highest = largest(high);
    for (; i < size; i++) {
        lowest = x[i] < lowest ? x[i] : lowest;
        highest = x[i] > highest ? x[i] : highest;
    }
    float step = (highest - lowest) / LEVELS;
    step = step > 1.17549435e-38f ? step : 1.17549435e-38f;
    float inverse = 1.0f / step, nought = rintf(-lowest * inverse);
    *scale = step;
    *zero = (int32_t)nought;
    for (i = 0; i + WIDTH <= size; i += WIDTH) {
        /* Rounded to the nearest whole number by what is lost beside 1.5 · 2^23. */
        vf whole = (load(x + i) * inverse + 12582912.0f) - 12582912.0f + nought;
        whole = smaller(larger(whole, splat(0.0f)), splat(LEVELS));
        vb bytes = __builtin_convertvector(__builtin_convertvector(whole, vi), vb);
        memcpy(values + i, &bytes, sizeof bytes);
    }
    for (; i < size; i++) {
        float whole = rintf(x[i] * inverse) + nought;
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
