/* Vectors of float32 in gcc's and clang's own kind, for the instructions that the compiler was told of; rows of
 * any type of number read and written by them. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR 64
#define ROWS 12
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR 32
#define ROWS 6
#else
#define VECTOR 16
#define ROWS 4
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if VECTOR == 64 && defined(__AVX512BF16__)
#define HAS_BF16_ROUNDING 1
#if !defined(SLOW_BF16_DOT)
#define HAS_BF16_DOT 1
#endif
#endif
#if (VECTOR == 64 && defined(__AVX512VNNI__)) || (VECTOR == 32 && defined(__AVXVNNI__) && !defined(NO_BYTE_DOT))
#define HAS_BYTE_DOT 1
#endif

#define WIDTH (VECTOR / 4)
#define COLUMNS (2 * WIDTH)
#define INLINE static inline __attribute__((always_inline))
/* A loop of known length, so that all that it keeps stays in registers. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)

typedef float vf __attribute__((vector_size(VECTOR)));
typedef int32_t vi __attribute__((vector_size(VECTOR)));
typedef uint32_t vu __attribute__((vector_size(VECTOR)));
typedef uint16_t vh __attribute__((vector_size(VECTOR / 2)));

enum { F32 = 0, BF16 = 1, U8 = 2, I16 = 3 };
enum { PLAIN, GELU, GELU_TANH, RELU, SILU, TANH };
enum { NO_NORM, LAYER_NORM, RMS_NORM };

#define LEVELS 255

INLINE vf load(const float *from) {
    vf v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float *to, vf v) { memcpy(to, &v, sizeof v); }

INLINE vf splat(float x) { return x - (vf){}; }

INLINE vf either(vi first, vf a, vf b) { return (vf)((first & (vi)a) | (~first & (vi)b)); }

#if VECTOR == 64
INLINE vf larger(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif VECTOR == 32
INLINE vf larger(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vf larger(vf a, vf b) { return either(a > b, a, b); }
INLINE vf smaller(vf a, vf b) { return either(a < b, a, b); }
#endif

/* Between -limit and limit. */
INLINE vf within(vf x, float limit) {
#if VECTOR == 64 && defined(__AVX512DQ__)
    return (vf)_mm512_range_ps((__m512)x, _mm512_set1_ps(limit), 2); /* the smaller size, with the sign of x */
#else
    return smaller(larger(x, splat(-limit)), splat(limit));
#endif
}

#if VECTOR == 64
INLINE float added_up(vf v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE float largest(vf v) { return _mm512_reduce_max_ps((__m512)v); }
#else
INLINE float added_up(vf v) {
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

INLINE float largest(vf v) {
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i + half] > v[i] ? v[i + half] : v[i];
    return v[0];
}
#endif

INLINE vf load_bf16(const uint16_t *from) {
    vh half;
    memcpy(&half, from, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

INLINE void store_bf16(uint16_t *to, vf v) {
#if defined(HAS_BF16_ROUNDING)
    __m256bh half = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &half, sizeof half);
#else
    vu bits = (vu)v;
    vh half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, vh);
    memcpy(to, &half, sizeof half);
#endif
}

INLINE void store_as(void *to, int type, vf v) {
    if (type == F32)
        store(to, v);
    else
        store_bf16(to, v);
}

/* The last byte of each number. Written out, since gcc 12 takes every number by itself. */
INLINE void store_last_bytes(uint8_t *to, vu v) {
#if VECTOR == 64
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v));
#elif VECTOR == 32
    const __m256i bytes = (__m256i)(v & 0xff);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
#else
    for (int i = 0; i < WIDTH; i++) to[i] = (uint8_t)v[i];
#endif
}

INLINE float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE vf load_as(const void *from, int type) { return type == F32 ? load(from) : load_bf16(from); }

/* Four sums side by side, so that none waits for the one before. */
INLINE vf joined_sums(const vf sums[4]) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

INLINE int size_of(int type) { return type == F32 ? 4 : type == U8 ? 1 : 2; }

INLINE const void *at(const void *base, int type, long place) { return (const char *)base + place * size_of(type); }

/* A row of any float type to float32, and back; `plus` adds to what is there. */
INLINE void read_row(float *to, const void *from, int type, long size, int plus) {
    long i = 0;
    if (type == F32) {
        const float *x = from;
        for (; i + WIDTH <= size; i += WIDTH) store(to + i, plus ? load(to + i) + load(x + i) : load(x + i));
        for (; i < size; i++) to[i] = plus ? to[i] + x[i] : x[i];
    } else {
        const uint16_t *x = from;
        for (; i + WIDTH <= size; i += WIDTH)
            store(to + i, plus ? load(to + i) + load_bf16(x + i) : load_bf16(x + i));
        for (; i < size; i++) to[i] = plus ? to[i] + from_bf16(x[i]) : from_bf16(x[i]);
    }
}

INLINE void write_row(void *to, int type, const float *from, long size) {
    long i = 0;
    if (type == F32) {
        memcpy(to, from, (size_t)size * 4);
        return;
    }
    uint16_t *y = to;
    for (; i + WIDTH <= size; i += WIDTH) store_bf16(y + i, load(from + i));
    for (; i < size; i++) y[i] = to_bf16(from[i]);
}
