/* Attention over packed rows, head by head: keys and values packed into panels, scores in cache. */

#if defined(HAS_BF16_DOT)
#define SHORT BF16
#elif defined(HAS_WORDS)
#define SHORT I16 /* whole numbers made of bfloat16, which is multiplied no faster than float32 here */
#else
#define SHORT F32
#endif
#define WORTH_WORDS 16 /* tokens of a row below which making whole numbers takes longer than they save */
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
 * panel; the keys that fill the last panel up are zero. Short numbers that are multiplied as long ones (`from`
 * BF16, `type` F32) are widened on the way, two out of each word: `size` is even then. */
INLINE void pack_keys(void *to, int type, int from, const void *keys, long length, long padded, long stride,
                      long size) {
    const long words = type == F32 ? size : size / 2, wide = type != from ? 2 : 1;
    const char *base = keys;
    const long step = stride * (from == F32 ? 4 : 2);
    for (long begin = 0; begin < padded; begin += WIDTH) {
        uint32_t *panel = (uint32_t *)to + begin / COLUMNS * COLUMNS * words + begin % COLUMNS;
#if VECTOR == 64
        for (long word = 0; word < words / wide; word += 16) {
            const long count = words / wide - word < 16 ? words / wide - word : 16;
            const uint32_t *rows[16];
            for (long i = 0; i < 16; i++)
                rows[i] = begin + i < length ? (const uint32_t *)(base + (begin + i) * step) + word : NULL;
            uint32_t *place = panel + word * wide * COLUMNS;
            turn_about(place, wide * COLUMNS, rows, count);
            for (long i = 0; wide == 2 && i < count; i++, place += 2 * COLUMNS) {
                const __m512i pair = _mm512_loadu_si512(place);
                _mm512_storeu_si512(place, _mm512_slli_epi32(pair, 16));
                _mm512_storeu_si512(place + COLUMNS, _mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
            }
        }
#else
        for (long i = 0; i < WIDTH; i++)
            for (long word = 0; word < words; word += wide) {
                uint32_t one = 0;
                if (begin + i < length) memcpy(&one, base + (begin + i) * step + 4 * (word / wide), 4);
                panel[word * COLUMNS + i] = wide == 2 ? one << 16 : one;
                if (wide == 2) panel[(word + 1) * COLUMNS + i] = one & 0xffff0000u;
            }
#endif
    }
}

/* Values as a right-hand matrix, tokens being its depth: those that fill it up are zero. */
INLINE void pack_values(void *to, int type, int from, const void *values, long length, long padded, long stride,
                        long size, long wide) {
    for (long begin = 0; begin < wide; begin += COLUMNS) {
        const long count = size - begin < COLUMNS ? size - begin : COLUMNS;
        if (type == F32) {
            float *panel = (float *)to + begin * padded;
            for (long t = 0; t < padded; t++, panel += COLUMNS) {
                const long copied = t < length ? count : 0;
                read_row(panel, at(values, from, t * stride + begin), from, copied, 0);
                memset(panel + copied, 0, (size_t)(COLUMNS - copied) * 4);
            }
            continue;
        }
        uint16_t *panel = (uint16_t *)to + begin * padded;
#if VECTOR == 64
        const __m512i order = _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b,
                                         0x002a000a, 0x00290009, 0x00280008, 0x00270007, 0x00260006,
                                         0x00250005, 0x00240004, 0x00230003, 0x00220002, 0x00210001,
                                         0x00200000);
        const __m512i upper = _mm512_add_epi16(order, _mm512_set1_epi16(16));
        const __mmask32 there = count == 32 ? ~(__mmask32)0 : ((__mmask32)1 << count) - 1;
        for (long t = 0; t < padded; t += 2, panel += 2 * COLUMNS) {
            const uint16_t *x = (const uint16_t *)values + t * stride + begin;
            __m512i one = _mm512_maskz_loadu_epi16(t < length ? there : 0, x);
            __m512i two = _mm512_maskz_loadu_epi16(t + 1 < length ? there : 0, x + stride);
            _mm512_storeu_si512(panel, _mm512_permutex2var_epi16(one, order, two));
            _mm512_storeu_si512(panel + COLUMNS, _mm512_permutex2var_epi16(one, upper, two));
        }
#else
        for (long t = 0; t < padded; t++, panel += t % 2 ? 0 : 2 * COLUMNS)
            for (long i = 0; i < COLUMNS; i++)
                panel[2 * i + t % 2] =
                    t < length && i < count ? ((const uint16_t *)values)[t * stride + begin + i] : 0;
#endif
    }
}

/* The scores of one query for the keys `low` to `high` (whole vectors) to probabilities that are still to be
 * divided by what is returned. Keys outside `first` to `last` are out of sight: the smallest numbers there are
 * stand for their share, which the sum of all others, at least 1, swallows. */
INLINE float soften(float *scores, void *to, int type, int is_short, long first, long last, long low, long high,
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
        const vf share = is_short ? power_of_two_short(below * binary) : exponential(below * rest);
        sum += share;
        if (type == F32)
            store((float *)to + key, share);
        else
            store_bf16((uint16_t *)to + key, share);
    }
    return added_up(sum);
}

/* One head of one row. `queries` lie as rows, keys and values packed; `padded` is a whole number of vectors. In
 * whole numbers (I16) a value's step is worth `unit`; the largest share becomes the largest word, or less where all
 * shares together would make a sum of products that passes 32 bits. */
INLINE void attend_head(int type, int is_short, long length, long padded, long size, long wide, const void *queries,
                        long query_stride, const void *keys, const void *values, float scale, float unit,
                        int causal, long reach, const float *bias, float *scores, void *shares, void *out,
                        int out_type, long out_stride) {
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
            float *own = scores + i * padded;
            void *to = type == I16 ? (void *)own : (void *)at(shares, type, i * padded);
            const float sum = soften(own, to, type == BF16 ? BF16 : F32, is_short, first, last, low, high,
                                     bias ? bias - query : NULL, scale);
            inverses[i] = unit / sum;
#if defined(HAS_WORDS)
            if (type == I16) {
                const float most = 2147483520.0f / LARGEST_VALUE - 0.5f * padded; /* less what rounding may add */
                const float factor = fminf(LARGEST_WORD, most / sum);
                words_of((int16_t *)shares + i * padded + low, own + low, high - low, factor);
                inverses[i] /= factor;
            }
#endif
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
enum { TURNING, PLAIN_ONE, PLAIN_TWO, QUERIES, KEYS, VALUES, SCORES, SHARES, SCRATCHES };
static size_t scratch_of(const Gathering *g, long longest, size_t places[SCRATCHES]) {
    const long wide = (g->size + COLUMNS - 1) / COLUMNS * COLUMNS;
    const long room = (longest + COLUMNS - 1) / COLUMNS * COLUMNS;
    const long plain = longest * g->size;
    const long numbers[SCRATCHES] = {plain,           plain,       plain,       plain,
                                     room * g->size, room * wide, ROWS * room, ROWS * room};
    size_t total = 0;
    for (int i = 0; i < SCRATCHES; i++) {
        places[i] = total;
        total += ((size_t)(numbers[i] + 1) * 4 + 63) / 64 * 64;
    }
    return total;
}

#if defined(HAS_WORDS)
/* A head's queries, keys or values as words that lie together, `most` for the largest; what a step is worth. */
INLINE float to_words(const Gathering *g, void *to, const void *from, int turns, float most, float *turning) {
    const long stride = 3 * g->heads * g->size, numbers = g->length * g->size;
    if (turns && g->cosines) {
        turned(turning, from, BF16, g->length, stride, g->size, g->cosines, g->sines);
        const float largest = largest_size(turning, numbers);
        words_of(to, turning, numbers, most / largest);
        return largest / most;
    }
    const float largest = largest_bf16(from, g->length, stride, g->size);
    words_of_bf16(to, from, g->length, stride, g->size, most / largest);
    return largest / most;
}
#endif

/* One head of the row that is being read. */
static void gather(const Gathering *g, long head, char *scratch, const size_t places[SCRATCHES]) {
    const long size = g->size, inner = g->heads * size, stride = 3 * inner, length = g->length;
    const long wide = (size + COLUMNS - 1) / COLUMNS * COLUMNS, padded = (length + WIDTH - 1) / WIDTH * WIDTH;
    const int from = g->product_type, is_even = size % 2 == 0;
    const int is_short = from == BF16 && is_even && (SHORT != I16 || length >= WORTH_WORDS);
    const int type = is_short ? SHORT : F32, to_type = g->out_type == U8 ? F32 : g->out_type;
    float *turning = (float *)(scratch + places[TURNING]), *scores = (float *)(scratch + places[SCORES]);
    void *plain = scratch + places[PLAIN_ONE], *queries = scratch + places[QUERIES];
    void *keys = scratch + places[KEYS], *values = scratch + places[VALUES], *shares = scratch + places[SHARES];
    const void *query = at(g->product, from, g->begin * stride + head * size);
    const void *key = at(query, from, inner), *value = at(query, from, 2 * inner);
    const float *bias = g->distances ? g->distances + head * (2 * g->most - 1 + COLUMNS) + g->most - 1 : NULL;
    void *place = (void *)at(g->to, to_type, head * size);
    long query_stride = stride;
#define ATTEND(type, is_short, scale, unit)                                                                     \
    attend_head(type, is_short, length, padded, size, wide, query, query_stride, keys, values, scale, unit,      \
                g->causal, g->reach, bias, scores, shares, place, to_type, inner)
#if defined(HAS_WORDS)
    if (type == I16) {
        /* As large as sums of `size` products can be in 32 bits. */
        const float most = fminf(LARGEST_WORD, floorf(sqrtf(2147483520.0f / size)));
        const float of_query = to_words(g, queries, query, 1, most, turning);
        const float of_key = to_words(g, plain, key, 1, most, turning);
        const float of_value = to_words(g, scratch + places[PLAIN_TWO], value, 0, LARGEST_VALUE, turning);
        pack_keys(keys, I16, I16, plain, length, padded, size, size);
        pack_values(values, I16, I16, scratch + places[PLAIN_TWO], length, padded, size, size, wide);
        query = queries, query_stride = size;
        ATTEND(I16, 1, g->scale * of_query * of_key, of_value);
        return;
    }
#endif
    if (!g->cosines && is_even) { /* keys can be read where they lie */
        pack_keys(keys, type, from, key, length, padded, stride, size);
    } else {
        turned(turning, key, from, length, stride, size, g->cosines, g->sines);
        write_row(plain, type, turning, length * size);
        pack_keys(keys, type, type, plain, length, padded, size, size);
    }
    if (g->cosines || type != from) {
        turned(turning, query, from, length, stride, size, g->cosines, g->sines);
        write_row(queries, type, turning, length * size);
        query = queries, query_stride = size;
    }
    pack_values(values, type, from, value, length, padded, stride, size, wide);
    if (type == F32)
        ATTEND(F32, from == BF16, g->scale, 1.0f);
    else
        ATTEND(BF16, 1, g->scale, 1.0f);
#undef ATTEND
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
