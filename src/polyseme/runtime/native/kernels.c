/* The arithmetic of packed states: products, norms, attention, quantising.
 *
 * Compiled on the machine it runs on, for the instructions that it has (see __init__.py). One thread a call,
 * unless `native_share` said that this thread may use more (see team.h). Rows of numbers are walked in vectors of gcc's and clang's own kind, so that every
 * processor can run this; only the dot products of bfloat16 and of bytes name instructions.
 *
 * Every product is made of tiles of up to ROWS rows and COLUMNS columns. The right-hand matrix lies in
 * panels: all of its depth for COLUMNS columns, `group` numbers of the depth side by side for each column
 * (1 in float32, 2 in bfloat16, 4 in bytes).
 */

#define _GNU_SOURCE /* for threads on cores of their own */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "team.h"

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
#define HAS_BF16_DOT 1
#endif
#if VECTOR == 64 && defined(__AVX512VNNI__)
#define HAS_BYTE_DOT 1
#endif

#define WIDTH (VECTOR / 4)
#define COLUMNS (2 * WIDTH)
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VECTOR)));
typedef int32_t vi __attribute__((vector_size(VECTOR)));
typedef uint32_t vu __attribute__((vector_size(VECTOR)));
typedef uint16_t vh __attribute__((vector_size(VECTOR / 2)));
typedef uint8_t vb __attribute__((vector_size(VECTOR / 4)));

enum { F32 = 0, BF16 = 1, U8 = 2 };
enum { PLAIN, GELU, GELU_TANH, RELU, SILU, TANH };
enum { NO_NORM, LAYER_NORM, RMS_NORM };

#if defined(HAS_BYTE_DOT)
#define LEVELS 255
#else
#define LEVELS 127 /* two products of a byte and seven bits fit into the sixteen bits of older instructions */
#endif

/* ---- vectors ---- */

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
#if defined(HAS_BF16_DOT)
    __m256bh half = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &half, sizeof half);
#else
    vu bits = (vu)v;
    vh half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, vh);
    memcpy(to, &half, sizeof half);
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

INLINE const void *at(const void *base, int type, long place) {
    return (const char *)base + place * (type == F32 ? 4 : type == BF16 ? 2 : 1);
}

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

/* ---- functions of a number ---- */

INLINE vf exponential(vf x) {
    /* 2^k · e^r with |r| ≤ ln 2 / 2; six terms leave an error of two units in the last place. */
    x = smaller(larger(x, splat(-87.3f)), splat(88.3f));
    vf shifted = x * 1.44269504088896341f + 12582912.0f;
    vf k = shifted - 12582912.0f;
    vf r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

/* 2^x for x ≤ 0 to 8e-5 of it, for results of sixteen bits: a polynomial for the part behind the point. */
INLINE vf power_of_two_short(vf x) {
    x = larger(x, splat(-126.0f));
    vf shifted = x + 12582912.0f;
    vf r = x - (shifted - 12582912.0f);
    vf p = splat(0.055171650333025395f);
    p = p * r + 0.24261114120106023f;
    p = p * r + 0.6932609906915674f;
    p = p * r + 0.9999280725127854f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

/* The exact GELU, by formula 7.1.26 of Abramowitz and Stegun for the error function (error below 2e-7). */
INLINE vf gelu_exact(vf x) {
    vf z = x * 0.70710678118654752f;
    vf away = larger(z, -z);
    vf t = 1.0f / (1.0f + 0.3275911f * away);
    vf p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf tail = 0.5f * p * t * exponential(-away * away); /* the normal distribution beyond |x| */
    return x * either(x < 0.0f, tail, 1.0f - tail);
}

/* The exact GELU to 4e-5, for results of eight or sixteen bits: a polynomial for the distribution on [-4, 4],
 * fitted by least squares with weights raised where the error was largest. */
INLINE vf gelu_short(vf x) {
    vf near = smaller(larger(x, splat(-4.0f)), splat(4.0f));
    vf s = near * near;
    vf p = splat(-1.301249944948879e-09f);
    p = p * s + 1.0419325918651675e-07f;
    p = p * s - 3.657062332512318e-06f;
    p = p * s + 7.485412103363874e-05f;
    p = p * s - 0.001006483735038448f;
    p = p * s + 0.00950537258046469f;
    p = p * s - 0.06588779570062188f;
    p = p * s + 0.39867336423284333f;
    return larger(x, splat(-4.0f)) * (p * near + 0.5f);
}

INLINE vf bend(vf x, int activation, int is_short) {
    switch (activation) {
        case GELU: return is_short ? gelu_short(x) : gelu_exact(x);
        case GELU_TANH: return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
        case RELU: return larger(x, splat(0.0f));
        case SILU: return x * sigmoid(x);
        case TANH: return 2.0f * sigmoid(2.0f * x) - 1.0f;
        default: return x;
    }
}

/* ---- quantising ---- */

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

/* ---- sums and norms ---- */

INLINE void normalise(const float *x, float *y, long size, int kind, const float *weight, const float *bias,
                      float eps) {
    long i;
    float mean = 0, scale;
    if (kind == NO_NORM) {
        memcpy(y, x, (size_t)size * 4);
        return;
    }
    vf sum = {};
    if (kind == LAYER_NORM) {
        for (i = 0; i + WIDTH <= size; i += WIDTH) sum += load(x + i);
        mean = added_up(sum);
        for (; i < size; i++) mean += x[i];
        mean /= size;
    }
    vf squares = {};
    for (i = 0; i + WIDTH <= size; i += WIDTH) {
        vf away = load(x + i) - mean;
        squares += away * away;
    }
    float square = added_up(squares);
    for (; i < size; i++) square += (x[i] - mean) * (x[i] - mean);
    scale = 1.0f / sqrtf(square / size + eps);
    for (i = 0; i + WIDTH <= size; i += WIDTH)
        store(y + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
    for (; i < size; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/* `kept` gets the sum, or with `keeps_norm` its norm; `ready` the norm, unless it is NULL. */
int native_norm(long tokens, long size, const void *residual, int residual_type, const void *added,
                int added_type, int kind, const float *weight, const float *bias, float eps, int keeps_norm,
                void *kept, int kept_type, void *ready, int ready_type, float *scales, int32_t *zeros) {
    float *sum = malloc((size_t)size * 8), *normed = sum + size;
    if (!sum) return 1;
    for (long token = 0; token < tokens; token++) {
        read_row(sum, at(residual, residual_type, token * size), residual_type, size, 0);
        if (added) read_row(sum, at(added, added_type, token * size), added_type, size, 1);
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

/* ---- tiles of products ---- */

/* Loops of known length, so that every sum stays in a register: M rows, V vectors of columns. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define CASES_4(TILE, V) TILE(1, V) TILE(2, V) TILE(3, V) TILE(4, V)
#if ROWS == 12
#define CASES(TILE, V)                                                                              \
    CASES_4(TILE, V) TILE(5, V) TILE(6, V) TILE(7, V) TILE(8, V) TILE(9, V) TILE(10, V) TILE(11, V) \
        TILE(12, V)
#elif ROWS == 6
#define CASES(TILE, V) CASES_4(TILE, V) TILE(5, V) TILE(6, V)
#else
#define CASES(TILE, V) CASES_4(TILE, V)
#endif
#define CASE(M, V) ((M) + (V) * 16)

#define TILE_F32(M, V)                                                           \
    case CASE(M, V): {                                                           \
        vf sums[M][V] = {};                                                      \
        for (long k = 0; k < depth; k++, panel += COLUMNS) {                     \
            vf right[V];                                                         \
            EACH(j, V) right[j] = load(panel + j * WIDTH);                       \
            EACH(i, M) {                                                         \
                float left = rows[i * stride + k];                               \
                EACH(j, V) sums[i][j] += left * right[j];                        \
            }                                                                    \
        }                                                                        \
        EACH(i, M) EACH(j, V) store(to + i * to_stride + j * WIDTH, sums[i][j]); \
        return;                                                                  \
    }

static __attribute__((noinline)) void tile_f32(int m, int vectors, const float *rows, long stride,
                                               const float *panel, long depth, float *to, long to_stride) {
    switch (CASE(m, vectors)) { CASES(TILE_F32, 1) CASES(TILE_F32, 2) }
}

#if defined(HAS_BF16_DOT)
#define TILE_BF16(M, V)                                                              \
    case CASE(M, V): {                                                               \
        __m512 sums[M][V];                                                           \
        EACH(i, M) EACH(j, V) sums[i][j] = _mm512_setzero_ps();                      \
        for (long k = 0; k < depth; k += 2, panel += 2 * COLUMNS) {                  \
            __m512bh right[V];                                                       \
            EACH(j, V) right[j] = (__m512bh)_mm512_loadu_si512(panel + 2 * j * WIDTH); \
            EACH(i, M) {                                                             \
                int32_t pair;                                                        \
                memcpy(&pair, rows + i * stride + k, 4);                             \
                __m512bh left = (__m512bh)_mm512_set1_epi32(pair);                   \
                EACH(j, V) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]); \
            }                                                                        \
        }                                                                            \
        EACH(i, M) EACH(j, V) store(to + i * to_stride + j * WIDTH, (vf)sums[i][j]); \
        return;                                                                      \
    }

static __attribute__((noinline)) void tile_bf16(int m, int vectors, const uint16_t *rows, long stride,
                                                const uint16_t *panel, long depth, float *to,
                                                long to_stride) {
    switch (CASE(m, vectors)) { CASES(TILE_BF16, 1) CASES(TILE_BF16, 2) }
}
#endif

/* Four products of a byte (0 to LEVELS) and a signed byte added to each 32-bit sum. */
#if defined(HAS_BYTE_DOT)
typedef __m512i sum_t;
/* Written out, since gcc 12 copies both sums around each of its own. */
INLINE __m512i dot_bytes(__m512i sum, __m512i x, __m512i w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
}
#define DOT(sum, x, w) dot_bytes(sum, x, w)
#define QUAD(x) _mm512_set1_epi32(x)
#define FETCH(p) _mm512_loadu_si512(p)
#elif VECTOR == 64
typedef __m512i sum_t;
#define DOT(sum, x, w) \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)))
#define QUAD(x) _mm512_set1_epi32(x)
#define FETCH(p) _mm512_loadu_si512(p)
#elif VECTOR == 32
typedef __m256i sum_t;
#define DOT(sum, x, w) \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
#define QUAD(x) _mm256_set1_epi32(x)
#define FETCH(p) _mm256_loadu_si256((const __m256i *)(p))
#else
typedef vi sum_t;
INLINE vi dot_bytes(vi sum, const uint8_t *x, const int8_t *w) {
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < 4; j++) sum[i] += (int32_t)x[j] * w[4 * i + j];
    return sum;
}
#endif

#if VECTOR > 16
#define TILE_BYTES(M, V)                                                             \
    case CASE(M, V): {                                                               \
        sum_t sums[M][V];                                                            \
        EACH(i, M) EACH(j, V) sums[i][j] = (sum_t){};                                \
        for (long k = 0; k < depth; k += 4, panel += 4 * COLUMNS) {                  \
            sum_t right[V];                                                          \
            EACH(j, V) right[j] = FETCH(panel + 4 * j * WIDTH);                      \
            EACH(i, M) {                                                             \
                int32_t quad;                                                        \
                memcpy(&quad, rows + i * stride + k, 4);                             \
                sum_t left = QUAD(quad);                                             \
                EACH(j, V) sums[i][j] = DOT(sums[i][j], left, right[j]);             \
            }                                                                        \
        }                                                                            \
        EACH(i, M) EACH(j, V)                                                        \
            store(to + i * to_stride + j * WIDTH, __builtin_convertvector((vi)sums[i][j], vf)); \
        return;                                                                      \
    }
#else
#define TILE_BYTES(M, V)                                                             \
    case CASE(M, V): {                                                               \
        for (int i = 0; i < M; i++)                                                  \
            for (int j = 0; j < V; j++) {                                            \
                vi sum = {};                                                         \
                for (long k = 0; k < depth; k += 4)                                  \
                    sum = dot_bytes(sum, rows + i * stride + k, panel + k * COLUMNS + 4 * j * WIDTH); \
                store(to + i * to_stride + j * WIDTH, __builtin_convertvector(sum, vf)); \
            }                                                                        \
        return;                                                                      \
    }
#endif

static __attribute__((noinline)) void tile_bytes(int m, int vectors, const uint8_t *rows, long stride,
                                                 const int8_t *panel, long depth, float *to,
                                                 long to_stride) {
    switch (CASE(m, vectors)) { CASES(TILE_BYTES, 2) }
}

INLINE void tile_of(int type, int m, int vectors, const void *rows, long stride, const void *panel, long depth,
                    float *to, long to_stride) {
    if (type == F32) tile_f32(m, vectors, rows, stride, panel, depth, to, to_stride);
#if defined(HAS_BF16_DOT)
    if (type == BF16) tile_bf16(m, vectors, rows, stride, panel, depth, to, to_stride);
#endif
    if (type == U8) tile_bytes(m, vectors, rows, stride, panel, depth, to, to_stride);
}

/* ---- linear maps ---- */

typedef struct {
    const float *scales;         /* of the rows of bytes, or NULL */
    const int32_t *zeros;        /* likewise */
    const float *column_scales;  /* of the weight's bytes */
    const float *column_sums;    /* of the weight's bytes */
    const float *bias;
    int activation;
} Ending;

/* From a tile of sums to states: what whole numbers stand for, the bias added, bent, in the result's type. */
INLINE void finish(const Ending *ending, float *tile, int m, long row, long column, long count, void *to,
                   int type, long to_stride, int is_short) {
    for (int i = 0; i < m; i++) {
        float *sums = tile + i * COLUMNS;
        void *place = (void *)at(to, type, i * to_stride);
        for (int j = 0; j < COLUMNS; j += WIDTH) {
            vf v = load(sums + j);
            if (ending->scales)
                v = (v - (float)ending->zeros[row + i] * load(ending->column_sums + column + j)) *
                    (ending->scales[row + i] * load(ending->column_scales + column + j));
            v = bend(v + load(ending->bias + column + j), ending->activation, is_short);
            if (count < COLUMNS)
                store(sums + j, v);
            else if (type == F32)
                store((float *)place + j, v);
            else
                store_bf16((uint16_t *)place + j, v);
        }
        if (count < COLUMNS) write_row(place, type, sums, count);
    }
}

typedef struct {
    int type;
    long tokens, depth, columns;
    const void *states, *panels;
    Ending ending;
    void *out;
    int out_type;
    float *waiting; /* with `out_type` U8: room for the rows of the result until they are whole */
    float *out_scales;
    int32_t *out_zeros;
} Product;

/* Rows `begin` to `end` of the result, for the columns `first` to `last`. */
static void multiply(const Product *p, long begin, long end, long first, long last) {
    float tile[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long column = first; column < last; column += COLUMNS) {
        const void *panel = at(p->panels, p->type, column * p->depth);
        const long count = last - column < COLUMNS ? last - column : COLUMNS;
        for (long row = begin; row < end; row += ROWS) {
            const int m = end - row < ROWS ? (int)(end - row) : ROWS;
            tile_of(p->type, m, 2, at(p->states, p->type, row * p->depth), p->depth, panel, p->depth, tile,
                    COLUMNS);
            if (p->waiting)
                finish(&p->ending, tile, m, row, column, count, p->waiting + (row - begin) * p->columns + column,
                       F32, p->columns, 1);
            else if (p->out_type == F32)
                finish(&p->ending, tile, m, row, column, count, (float *)p->out + row * p->columns + column, F32,
                       p->columns, 0);
            else
                finish(&p->ending, tile, m, row, column, count, (uint16_t *)p->out + row * p->columns + column,
                       BF16, p->columns, 1);
        }
    }
}

static void quantise_waiting(const Product *p, long begin, long end) {
    for (long row = begin; row < end; row++)
        quantise_row(p->waiting + (row - begin) * p->columns, p->columns, (uint8_t *)p->out + row * p->columns,
                     p->out_scales + row, p->out_zeros + row);
}

/* Some of the columns for all rows. */
static void multiply_part(void *work, long part, long parts) {
    const Product *p = work;
    const long panels = (p->columns + COLUMNS - 1) / COLUMNS, block = 8 * ROWS;
    const long first = panels * part / parts * COLUMNS, end = panels * (part + 1) / parts * COLUMNS;
    const long last = end < p->columns ? end : p->columns;
    Product of_block = *p;
    for (long begin = 0; begin < p->tokens; begin += block) {
        if (p->waiting) of_block.waiting = p->waiting + begin * p->columns;
        multiply(&of_block, begin, begin + block < p->tokens ? begin + block : p->tokens, first, last);
    }
}

static void quantise_part(void *work, long part, long parts) {
    Product p = *(const Product *)work;
    const long begin = p.tokens * part / parts;
    p.waiting += begin * p.columns;
    quantise_waiting(&p, begin, p.tokens * (part + 1) / parts);
}

/* `panels`, `column_scales`, `column_sums` and `bias` are filled up to whole panels. With `out_type` U8 the
 * result is quantised token by token; it waits as float32 until its row is whole. */
int native_linear(int type, long tokens, long depth, long columns, const void *states, const float *scales,
                  const int32_t *zeros, const void *panels, const float *column_scales,
                  const float *column_sums, const float *bias, int activation, void *out, int out_type,
                  float *out_scales, int32_t *out_zeros) {
    const Ending ending = {scales, zeros, column_scales, column_sums, bias, activation};
    Product p = {type, tokens, depth, columns, states, panels, ending, out, out_type, NULL, out_scales, out_zeros};
    const int is_shared = sharing > 1;
    const long block = out_type == U8 ? 2 * ROWS : 8 * ROWS; /* rows that share a panel while it is in cache */
    const long rows = is_shared ? tokens : block;
    if (out_type == U8 && !(p.waiting = malloc((size_t)(rows * columns + 1) * 4))) return 1;
    if (is_shared) {
        const long whole = (columns + COLUMNS - 1) / COLUMNS, parts = 4L * sharing;
        together(multiply_part, &p, whole < parts ? whole : parts);
        if (p.waiting) together(quantise_part, &p, tokens < parts ? tokens : parts);
    } else {
        for (long begin = 0; begin < tokens; begin += block) {
            const long end = begin + block < tokens ? begin + block : tokens;
            multiply(&p, begin, end, 0, columns);
            if (p.waiting) quantise_waiting(&p, begin, end);
        }
    }
    free(p.waiting);
    return 0;
}

/* ---- attention ---- */

#if defined(HAS_BF16_DOT)
#define SHORT BF16
#else
#define SHORT F32
#endif
#define WORTH_SHARING 32 /* tokens of a row below which its heads are not divided among threads */

/* A head's queries or keys of one row, turned by their places (cosines NULL: as they are). */
INLINE void turned(float *to, const void *from, int type, long length, long stride, long size,
                   const float *cosines, const float *sines) {
    const long half = size / 2;
    for (long t = 0; t < length; t++, to += size) {
        read_row(to, at(from, type, t * stride), type, size, 0);
        if (!cosines) continue;
        const float *cosine = cosines + t * half, *sine = sines + t * half;
        for (long i = 0; i < half; i++) {
            float left = to[i], right = to[i + half];
            to[i] = left * cosine[i] - right * sine[i];
            to[i + half] = right * cosine[i] + left * sine[i];
        }
    }
}

#if VECTOR == 64
/* Sixteen rows of up to sixteen words of 32 bits, turned about: word i of row j to word j of row i. */
INLINE void turn_about(uint32_t *to, long to_stride, const uint32_t *const from[16], long count) {
    const __mmask16 there = (__mmask16)((1u << count) - 1u);
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = from[i] ? _mm512_maskz_loadu_epi32(there, from[i]) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0x88);
            b[i + 4 + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        a[j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0x88);
        a[8 + j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0xdd);
    }
    for (int i = 0; i < 16; i++)
        if (i < count) _mm512_storeu_si512(to + i * to_stride, a[i]);
}
#endif

/* Keys as a right-hand matrix: words of 32 bits (a number, or a pair of short ones), `[words, COLUMNS]` a
 * panel; the keys that fill the last panel up are zero. */
INLINE void pack_keys(void *to, int type, const void *keys, long length, long padded, long stride, long size) {
    const long words = type == F32 ? size : size / 2;
    const char *base = keys;
    const long step = stride * (type == F32 ? 4 : 2);
    for (long begin = 0; begin < padded; begin += WIDTH) {
        uint32_t *panel = (uint32_t *)to + begin / COLUMNS * COLUMNS * words + begin % COLUMNS;
#if VECTOR == 64
        for (long word = 0; word < words; word += 16) {
            const uint32_t *rows[16];
            for (long i = 0; i < 16; i++)
                rows[i] = begin + i < length ? (const uint32_t *)(base + (begin + i) * step) + word : NULL;
            turn_about(panel + word * COLUMNS, COLUMNS, rows, words - word < 16 ? words - word : 16);
        }
#else
        for (long i = 0; i < WIDTH; i++)
            for (long word = 0; word < words; word++) {
                uint32_t one = 0;
                if (begin + i < length) memcpy(&one, base + (begin + i) * step + 4 * word, 4);
                panel[word * COLUMNS + i] = one;
            }
#endif
    }
}

/* Values as a right-hand matrix, tokens being its depth: those that fill it up are zero. */
INLINE void pack_values(void *to, int type, const void *values, long length, long padded, long stride,
                        long size, long wide) {
    for (long begin = 0; begin < wide; begin += COLUMNS) {
        const long count = size - begin < COLUMNS ? size - begin : COLUMNS;
        if (type == F32) {
            float *panel = (float *)to + begin * padded;
            for (long t = 0; t < padded; t++, panel += COLUMNS) {
                const long copied = t < length ? count : 0;
                memcpy(panel, (const float *)values + t * stride + begin, (size_t)copied * 4);
                memset(panel + copied, 0, (size_t)(COLUMNS - copied) * 4);
            }
            continue;
        }
#if VECTOR == 64
        __m512i order = _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b,
                                         0x002a000a, 0x00290009, 0x00280008, 0x00270007, 0x00260006,
                                         0x00250005, 0x00240004, 0x00230003, 0x00220002, 0x00210001,
                                         0x00200000);
        const __m512i upper = _mm512_add_epi16(order, _mm512_set1_epi16(16));
        const __mmask32 there = count == 32 ? ~(__mmask32)0 : ((__mmask32)1 << count) - 1;
        uint16_t *panel = (uint16_t *)to + begin * padded;
        for (long t = 0; t < padded; t += 2, panel += 2 * COLUMNS) {
            const uint16_t *x = (const uint16_t *)values + t * stride + begin;
            __m512i one = _mm512_maskz_loadu_epi16(t < length ? there : 0, x);
            __m512i two = _mm512_maskz_loadu_epi16(t + 1 < length ? there : 0, x + stride);
            _mm512_storeu_si512(panel, _mm512_permutex2var_epi16(one, order, two));
            _mm512_storeu_si512(panel + COLUMNS, _mm512_permutex2var_epi16(one, upper, two));
        }
#endif
    }
}

/* The scores of one query for the keys `low` to `high` (whole vectors) to probabilities that are still to be
 * divided by what is returned. Keys outside `first` to `last` are out of sight: the smallest numbers there are
 * stand for their share, which the sum of all others, at least 1, swallows. */
INLINE float soften(float *scores, void *to, int type, long first, long last, long low, long high,
                    const float *bias, float scale) {
    vf most = splat(-3.0e38f);
    vi key_numbers;
    for (int i = 0; i < WIDTH; i++) key_numbers[i] = i;
    for (long key = low; key < high; key += WIDTH) {
        vf s = load(scores + key);
        const int at_edge = key < first || key + WIDTH > last;
        if (bias) s = s * scale + load(bias + key);
        if (at_edge)
            s = either((key_numbers >= (int32_t)(first - key)) & (key_numbers < (int32_t)(last - key)), s,
                       splat(-3.0e38f));
        if (bias || at_edge) store(scores + key, s);
        most = larger(most, s);
    }
    const float peak = largest(most), rest = bias ? 1.0f : scale, binary = rest * 1.44269504088896341f;
    vf sum = {};
    for (long key = low; key < high; key += WIDTH) {
        const vf below = load(scores + key) - peak;
        const vf share = type == F32 ? exponential(below * rest) : power_of_two_short(below * binary);
        sum += share;
        if (type == F32)
            store((float *)to + key, share);
        else
            store_bf16((uint16_t *)to + key, share);
    }
    return added_up(sum);
}

/* One head of one row. `queries` lie as rows, keys and values packed; `padded` is a whole number of vectors. */
INLINE void attend_head(int type, long length, long padded, long size, long wide, const void *queries,
                        long query_stride, const void *keys, const void *values, float scale, int causal,
                        long reach, const float *bias, float *scores, void *shares, void *out, int out_type,
                        long out_stride) {
    float tile[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long begin = 0; begin < length; begin += ROWS) {
        const int m = length - begin < ROWS ? (int)(length - begin) : ROWS;
        long low = reach >= 0 && begin - reach > 0 ? begin - reach : 0;
        long high = reach >= 0 && begin + m + reach < length ? begin + m + reach : length;
        if (causal && begin + m < high) high = begin + m;
        low = low / COLUMNS * COLUMNS;
        high = (high + WIDTH - 1) / WIDTH * WIDTH;
        for (long key = low; key < high; key += COLUMNS)
            tile_of(type, m, high - key > WIDTH ? 2 : 1, at(queries, type, begin * query_stride), query_stride,
                    at(keys, type, key * size), size, scores + key, padded);
        float inverses[ROWS];
        for (int i = 0; i < m; i++) {
            const long query = begin + i;
            const long first = reach >= 0 && query - reach > 0 ? query - reach : 0;
            long last = reach >= 0 && query + reach + 1 < length ? query + reach + 1 : length;
            if (causal && query + 1 < last) last = query + 1;
            inverses[i] = 1.0f / soften(scores + i * padded, (void *)at(shares, type, i * padded), type, first,
                                        last, low, high, bias ? bias - query : NULL, scale);
        }
        for (long column = 0; column < wide; column += COLUMNS) {
            const long count = size - column < COLUMNS ? size - column : COLUMNS;
            tile_of(type, m, count > WIDTH ? 2 : 1, at(shares, type, low), padded,
                    at(values, type, column * padded + low * COLUMNS), high - low, tile, COLUMNS);
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < COLUMNS; j += WIDTH)
                    store(tile + i * COLUMNS + j, load(tile + i * COLUMNS + j) * inverses[i]);
                write_row((void *)at(out, out_type, (begin + i) * out_stride + column), out_type,
                          tile + i * COLUMNS, count);
            }
        }
    }
}

typedef struct {
    long heads, size;
    const void *product;
    int product_type;
    float scale;
    int causal;
    long reach;
    const float *cosines, *sines, *distances;
    long most;
    int out_type;
    long begin, length; /* of the row that is being read */
    void *to;           /* its result, in float32 where it is quantised when all heads are done */
    int failed;
} Gathering;

/* Bytes of one thread's scratch for rows of up to `longest` tokens, all its parts side by side. */
enum { TURNING, PLAIN_ONE, QUERIES, KEYS, VALUES, SCORES, SHARES, SCRATCHES };
static size_t scratch_of(const Gathering *g, long longest, size_t places[SCRATCHES]) {
    const long wide = (g->size + COLUMNS - 1) / COLUMNS * COLUMNS;
    const long room = (longest + COLUMNS - 1) / COLUMNS * COLUMNS;
    const long numbers[SCRATCHES] = {longest * g->size, longest * g->size, longest * g->size, room * g->size,
                                     room * wide,       ROWS * room,       ROWS * room};
    size_t total = 0;
    for (int i = 0; i < SCRATCHES; i++) {
        places[i] = total;
        total += ((size_t)(numbers[i] + 1) * 4 + 63) / 64 * 64;
    }
    return total;
}

/* One head of the row that is being read. */
static void gather(const Gathering *g, long head, char *scratch, const size_t places[SCRATCHES]) {
    const long size = g->size, inner = g->heads * size, stride = 3 * inner, length = g->length;
    const long wide = (size + COLUMNS - 1) / COLUMNS * COLUMNS, padded = (length + WIDTH - 1) / WIDTH * WIDTH;
    const int from = g->product_type, type = from == BF16 && size % 2 == 0 ? SHORT : F32;
    const int to_type = g->out_type == U8 ? F32 : g->out_type;
    float *turning = (float *)(scratch + places[TURNING]), *scores = (float *)(scratch + places[SCORES]);
    void *plain = scratch + places[PLAIN_ONE], *queries = scratch + places[QUERIES];
    void *keys = scratch + places[KEYS], *values = scratch + places[VALUES], *shares = scratch + places[SHARES];
    const void *query = at(g->product, from, g->begin * stride + head * size);
    const void *key = at(query, from, inner), *value = at(query, from, 2 * inner);
    long query_stride = stride;
    if (!g->cosines && type == from) { /* queries and keys can be read where they lie */
        pack_keys(keys, type, key, length, padded, stride, size);
        pack_values(values, type, value, length, padded, stride, size, wide);
    } else {
        turned(turning, key, from, length, stride, size, g->cosines, g->sines);
        write_row(plain, type, turning, length * size);
        pack_keys(keys, type, plain, length, padded, size, size);
        turned(turning, query, from, length, stride, size, g->cosines, g->sines);
        write_row(queries, type, turning, length * size);
        turned(turning, value, from, length, stride, size, NULL, NULL);
        write_row(plain, type, turning, length * size);
        pack_values(values, type, plain, length, padded, size, size, wide);
        query = queries;
        query_stride = size;
    }
    const float *bias = g->distances ? g->distances + head * (2 * g->most - 1 + COLUMNS) + g->most - 1 : NULL;
    void *place = (void *)at(g->to, to_type, head * size);
    if (type == F32)
        attend_head(F32, length, padded, size, wide, query, query_stride, keys, values, g->scale, g->causal,
                    g->reach, bias, scores, shares, place, to_type, inner);
    else
        attend_head(BF16, length, padded, size, wide, query, query_stride, keys, values, g->scale, g->causal,
                    g->reach, bias, scores, shares, place, to_type, inner);
}

static void gather_part(void *work, long part, long parts) {
    Gathering *g = work;
    size_t places[SCRATCHES];
    char *scratch = malloc(scratch_of(g, g->length, places));
    if (!scratch) {
        g->failed = 1;
        return;
    }
    for (long head = g->heads * part / parts; head < g->heads * (part + 1) / parts; head++)
        gather(g, head, scratch, places);
    free(scratch);
}

/* All heads of all rows, from the fused product `[tokens, 3 · heads · size]`. `distances` is
 * `[heads, 2 · most − 1 + COLUMNS]`, filled up so that whole vectors can be read, or NULL. With `out_type` U8 a
 * row of tokens waits in float32 until its heads are done. */
int native_attention(long num_rows, const int64_t *starts, long heads, long size, const void *product,
                     int product_type, float scale, int causal, long reach, const float *cosines,
                     const float *sines, const float *distances, long most, void *out, int out_type,
                     float *out_scales, int32_t *out_zeros) {
    Gathering g = {heads, size, product, product_type, scale,    causal,
                   reach, cosines, sines, distances,   most, out_type, 0, 0, NULL, 0};
    const long inner = heads * size, parts = 4L * sharing;
    size_t places[SCRATCHES];
    long longest = 0;
    for (long row = 0; row < num_rows; row++)
        longest = starts[row + 1] - starts[row] > longest ? starts[row + 1] - starts[row] : longest;
    char *scratch = malloc(scratch_of(&g, longest, places));
    float *waiting = malloc((size_t)(longest * inner + 1) * 4);
    g.failed = !scratch || !waiting;
    for (long row = 0; !g.failed && row < num_rows; row++) {
        g.begin = starts[row];
        g.length = starts[row + 1] - g.begin;
        g.to = out_type == U8 ? (void *)waiting : (void *)at(out, out_type, g.begin * inner);
        if (sharing > 1 && g.length >= WORTH_SHARING)
            together(gather_part, &g, heads < parts ? heads : parts);
        else
            for (long head = 0; head < heads; head++) gather(&g, head, scratch, places);
        for (long t = 0; out_type == U8 && t < g.length; t++)
            quantise_row(waiting + t * inner, inner, (uint8_t *)out + (g.begin + t) * inner,
                         out_scales + g.begin + t, out_zeros + g.begin + t);
    }
    free(scratch);
    free(waiting);
    return g.failed;
}

/* ---- what was compiled ---- */

int native_columns(void) { return COLUMNS; }

int native_levels(void) { return LEVELS; }

int native_has_bf16(void) {
#if defined(HAS_BF16_DOT)
    return 1;
#else
    return 0;
#endif
}

int native_vector_bits(void) { return 8 * VECTOR; }

int native_has_byte_dot(void) {
#if defined(HAS_BYTE_DOT)
    return 1;
#else
    return 0;
#endif
}
