/* Tiles of products: up to ROWS rows and COLUMNS columns, every sum in a register.
 *
 * The right-hand matrix lies in panels: all of its depth for COLUMNS columns, `group` numbers of the depth side by
 * side for each column (1 in float32, 2 in bfloat16, 4 in bytes).
 */

/* M rows, V vectors of columns. */
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
            EACH(j, V) __builtin_prefetch(panel + 8 * COLUMNS + j * WIDTH);      \
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
#if VECTOR == 64
typedef __m512i sum_t;
#define EVERYWHERE(x) _mm512_set1_epi32(x)
#define FETCH(p) _mm512_loadu_si512(p)
#define DOT_IN_TWO_STEPS(sum, x, w) \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)))
#define DOT_CODE ""
#define DOT_REGISTER "v"
#elif VECTOR == 32
typedef __m256i sum_t;
#define EVERYWHERE(x) _mm256_set1_epi32(x)
#define FETCH(p) _mm256_loadu_si256((const __m256i *)(p))
#define DOT_IN_TWO_STEPS(sum, x, w) \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
#define DOT_CODE "%{vex%} " /* AVX-VNNI's, in the older code for the first sixteen registers */
#define DOT_REGISTER "x"
#endif

#if defined(HAS_BYTE_DOT)
/* Written out, since gcc 12 copies both sums around each of its own. */
INLINE sum_t dot_bytes(sum_t sum, sum_t x, sum_t w) {
    __asm__(DOT_CODE "vpdpbusd %2, %1, %0" : "+" DOT_REGISTER(sum) : DOT_REGISTER(x), DOT_REGISTER(w));
    return sum;
}
#define DOT(sum, x, w) dot_bytes(sum, x, w)

/* Two products of words added to each 32-bit sum: twice as many as float32 has in a vector, at the same rate. */
INLINE sum_t dot_words(sum_t sum, sum_t x, sum_t w) {
    __asm__(DOT_CODE "vpdpwssd %2, %1, %0" : "+" DOT_REGISTER(sum) : DOT_REGISTER(x), DOT_REGISTER(w));
    return sum;
}
#elif VECTOR > 16
#define DOT(sum, x, w) DOT_IN_TWO_STEPS(sum, x, w)
#else
typedef vi sum_t;
INLINE vi dot_bytes(vi sum, const uint8_t *x, const int8_t *w) {
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < 4; j++) sum[i] += (int32_t)x[j] * w[4 * i + j];
    return sum;
}
#endif

#define FAR_AHEAD 4096 /* bytes: a page of memory */
#if VECTOR > 16
/* Numbers of which `GROUP` fill 32 bits, multiplied and added up by `ADD`; `AHEAD` bytes on are asked for. */
#define WHOLE_NUMBERS(M, V, GROUP, ADD, AHEAD)                                       \
    case CASE(M, V): {                                                               \
        sum_t sums[M][V];                                                            \
        EACH(i, M) EACH(j, V) sums[i][j] = (sum_t){};                                \
        for (long k = 0; k < depth; k += GROUP, panel += GROUP * COLUMNS) {          \
            sum_t right[V];                                                          \
            EACH(j, V) right[j] = FETCH(panel + GROUP * j * WIDTH);                  \
            if (AHEAD) EACH(j, V) __builtin_prefetch((const char *)(panel + GROUP * j * WIDTH) + AHEAD); \
            EACH(i, M) {                                                             \
                int32_t group;                                                       \
                memcpy(&group, rows + i * stride + k, 4);                            \
                sum_t left = EVERYWHERE(group);                                      \
                EACH(j, V) sums[i][j] = ADD(sums[i][j], left, right[j]);             \
            }                                                                        \
        }                                                                            \
        EACH(i, M) EACH(j, V)                                                        \
            store(to + i * to_stride + j * WIDTH, __builtin_convertvector((vi)sums[i][j], vf)); \
        return;                                                                      \
    }
#define TILE_WORDS(M, V) WHOLE_NUMBERS(M, V, 2, dot_words, 0)
#define TILE_BYTES(M, V) WHOLE_NUMBERS(M, V, 4, DOT, 0)
#define TILE_FAR_BYTES(M, V) WHOLE_NUMBERS(M, V, 4, DOT, FAR_AHEAD)
#else
#define TILE_FAR_BYTES(M, V) TILE_BYTES(M, V)
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

#if defined(HAS_BYTE_DOT)
static __attribute__((noinline)) void tile_words(int m, int vectors, const int16_t *rows, long stride,
                                                 const int16_t *panel, long depth, float *to,
                                                 long to_stride) {
    switch (CASE(m, vectors)) { CASES(TILE_WORDS, 1) CASES(TILE_WORDS, 2) }
}
#endif

static __attribute__((noinline)) void tile_bytes(int m, int vectors, const uint8_t *rows, long stride,
                                                 const int8_t *panel, long depth, float *to,
                                                 long to_stride) {
    switch (CASE(m, vectors)) { CASES(TILE_BYTES, 2) }
}

/* Likewise, for a panel that comes from afar: what follows it is asked for well ahead, across pages of memory. */
static __attribute__((noinline)) void tile_far_bytes(int m, const uint8_t *rows, long stride,
                                                     const int8_t *panel, long depth, float *to) {
    const long to_stride = COLUMNS;
    switch (CASE(m, 2)) { CASES(TILE_FAR_BYTES, 2) }
}

INLINE void tile_of(int type, int m, int vectors, const void *rows, long stride, const void *panel, long depth,
                    float *to, long to_stride) {
    if (type == F32) tile_f32(m, vectors, rows, stride, panel, depth, to, to_stride);
#if defined(HAS_BF16_DOT)
    if (type == BF16) tile_bf16(m, vectors, rows, stride, panel, depth, to, to_stride);
#endif
#if defined(HAS_BYTE_DOT)
    if (type == I16) tile_words(m, vectors, rows, stride, panel, depth, to, to_stride);
#endif
    if (type == U8) tile_bytes(m, vectors, rows, stride, panel, depth, to, to_stride);
}
