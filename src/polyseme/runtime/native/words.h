/* Numbers to whole ones of sixteen bits, which attention multiplies where dot products of bytes and words are fast
 * but those of bfloat16 are not. */

#if defined(HAS_BYTE_DOT) && !defined(HAS_BF16_DOT)
#define HAS_WORDS 1
#endif
#define LARGEST_WORD 32767.0f
#define LARGEST_VALUE 4095.0f /* of those that shares are multiplied by */
/* Steps are never worth nothing: large numbers that hide keys would show them else. */
#define LEAST_OF_ALL 1e-12f

#if defined(HAS_WORDS)
#if VECTOR == 64
#define EVERY(name) _mm512_##name
#define SET_WORDS(x) _mm512_set1_epi16((short)(x))
#define BLEND(even, odd) _mm512_mask_blend_epi16(0xaaaaaaaau, even, odd)
#define INTS(x) _mm512_cvtps_epi32((__m512)(x))
#else
#define EVERY(name) _mm256_##name
#define SET_WORDS(x) _mm256_set1_epi16((short)(x))
#define BLEND(even, odd) _mm256_blend_epi16(even, odd, 0xaa)
#define INTS(x) _mm256_cvtps_epi32((__m256)(x))
#endif

INLINE void put_words(int16_t *to, sum_t words) { memcpy(to, &words, sizeof words); }

/* The largest size among rows of bfloat16, whose order is that of their bits without the sign. */
INLINE float largest_bf16(const uint16_t *from, long rows, long stride, long size) {
    sum_t most = {};
    uint16_t each[COLUMNS], largest_bits = 0;
    for (long t = 0; t < rows; t++, from += stride) {
        long i = 0;
        for (; i + COLUMNS <= size; i += COLUMNS)
            most = EVERY(max_epu16)(most, (sum_t)((vi)FETCH(from + i) & (vi)SET_WORDS(0x7fff)));
        for (; i < size; i++) largest_bits = (from[i] & 0x7fff) > largest_bits ? from[i] & 0x7fff : largest_bits;
    }
    memcpy(each, &most, sizeof each);
    for (int i = 0; i < COLUMNS; i++) largest_bits = each[i] > largest_bits ? each[i] : largest_bits;
    return fmaxf(from_bf16(largest_bits), LEAST_OF_ALL);
}

/* Pairs of bfloat16 times `factor`, rounded: widened apart and joined again. */
INLINE sum_t joined_words(vu pairs, float factor) {
    const vi even = (vi)INTS((vf)(pairs << 16) * factor), odd = (vi)INTS((vf)(pairs & 0xffff0000u) * factor);
    return BLEND((sum_t)even, (sum_t)(odd << 16));
}

/* Rows of bfloat16 as words that lie together. */
INLINE void words_of_bf16(int16_t *to, const uint16_t *from, long rows, long stride, long size, float factor) {
    for (long t = 0; t < rows; t++, from += stride, to += size) {
        long i = 0;
        for (; i + COLUMNS <= size; i += COLUMNS) put_words(to + i, joined_words((vu)FETCH(from + i), factor));
        if (i == size) continue;
#if VECTOR == 64
        const __mmask32 there = ((__mmask32)1 << (size - i)) - 1;
        const vu pairs = (vu)_mm512_maskz_loadu_epi16(there, from + i);
        _mm512_mask_storeu_epi16(to + i, there, joined_words(pairs, factor));
#else
        for (; i < size; i++) to[i] = (int16_t)rintf(from_bf16(from[i]) * factor);
#endif
    }
}

/* Likewise of float32, all in one row. */
INLINE void words_of(int16_t *to, const float *from, long count, float factor) {
    long i = 0;
    for (; i + COLUMNS <= count; i += COLUMNS) {
        const sum_t low = INTS(load(from + i) * factor), high = INTS(load(from + i + WIDTH) * factor);
#if VECTOR == 64
        const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
        put_words(to + i, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(low, high)));
#else
        put_words(to + i, _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8));
#endif
    }
    if (i + WIDTH <= count) {
        const sum_t whole = INTS(load(from + i) * factor);
#if VECTOR == 64
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtepi32_epi16(whole));
#else
        const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
        _mm_storeu_si128((__m128i *)(to + i), _mm_packs_epi32(low, high));
#endif
        i += WIDTH;
    }
    for (; i < count; i++) to[i] = (int16_t)rintf(from[i] * factor);
}

INLINE float largest_size(const float *from, long count) {
    vf most[2] = {};
    float size = LEAST_OF_ALL;
    long i = 0;
    for (; i + COLUMNS <= count; i += COLUMNS) EACH(j, 2) {
            const vf v = load(from + i + j * WIDTH);
            most[j] = larger(most[j], larger(v, -v));
        }
    for (; i < count; i++) size = fmaxf(size, fabsf(from[i]));
    return fmaxf(size, largest(larger(most[0], most[1])));
}
#endif
