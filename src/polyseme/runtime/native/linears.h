/* Linear maps: products with a weight in panels, scales, bias and activation in the same pass. */

typedef struct {
    const float *scales;         /* of the rows of bytes, or NULL */
    const int32_t *zeros;        /* likewise */
    const float *column_scales;  /* of the weight's bytes */
    const float *column_sums;    /* of the weight's bytes */
    const float *bias;
    int activation;
} Ending;

/* From a tile of sums to states: what whole numbers stand for, the bias added, bent, in the result's type. What is
 * constant where this is called is chosen by the compiler, outside the loop. */
INLINE void finish_by(const Ending *ending, float *tile, int m, long row, long column, long count, void *to,
                      int type, long to_stride, int is_short, int is_whole, int activation) {
    vf scales[2], zeros[2], bias[2];
    EACH(j, 2) bias[j] = load(ending->bias + column + j * WIDTH);
    if (is_whole) {
        EACH(j, 2) scales[j] = load(ending->column_scales + column + j * WIDTH);
        EACH(j, 2) zeros[j] = load(ending->column_sums + column + j * WIDTH);
    }
    for (int i = 0; i < m; i++) {
        float *sums = tile + i * COLUMNS;
        void *place = (void *)at(to, type, i * to_stride);
        vf v[2];
        EACH(j, 2) v[j] = load(sums + j * WIDTH);
        if (is_whole) {
            const vf scale = splat(ending->scales[row + i]), zero = splat((float)ending->zeros[row + i]);
            EACH(j, 2) v[j] = (v[j] - zero * zeros[j]) * (scale * scales[j]);
        }
        EACH(j, 2) v[j] = bend(v[j] + bias[j], activation, is_short);
        if (count < COLUMNS) {
            EACH(j, 2) store(sums + j * WIDTH, v[j]);
            write_row(place, type, sums, count);
        } else {
            EACH(j, 2) store_as((void *)at(place, type, j * WIDTH), type, v[j]);
        }
    }
}

INLINE void finish(const Ending *ending, float *tile, int m, long row, long column, long count, void *to,
                   int type, long to_stride, int is_short) {
#define FINISH(whole, activation) \
    finish_by(ending, tile, m, row, column, count, to, type, to_stride, is_short, whole, activation)
    if (!ending->scales) FINISH(0, ending->activation);
    else if (ending->activation == PLAIN) FINISH(1, PLAIN);
    else if (ending->activation == GELU) FINISH(1, GELU);
    else FINISH(1, ending->activation);
#undef FINISH
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

#define FEW_ROWS 64 /* of a text alone: no weight is near, since all others were read since it was last */

/* Rows `begin` to `end` of the result, for the columns `first` to `last`. */
static void multiply(const Product *p, long begin, long end, long first, long last) {
    float tile[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long column = first; column < last; column += COLUMNS) {
        const void *panel = at(p->panels, p->type, column * p->depth);
        const long count = last - column < COLUMNS ? last - column : COLUMNS;
        for (long row = begin; row < end; row += ROWS) {
            const int m = end - row < ROWS ? (int)(end - row) : ROWS;
            const void *states = at(p->states, p->type, row * p->depth);
            if (p->type == U8 && p->tokens <= FEW_ROWS && row == begin)
                tile_far_bytes(m, states, p->depth, panel, p->depth, tile);
            else
                tile_of(p->type, m, 2, states, p->depth, panel, p->depth, tile, COLUMNS);
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

/* Rows that are multiplied by one panel after the other before the next rows are. A small weight stays in the second
 * cache meanwhile; a large one is read from afar each time, so there are more rows the larger it is, as long as they
 * and what waits of them stay near instead. */
#define NEAR (1L << 20) /* bytes */
static long rows_together(const Product *p) {
    const long row = (long)size_of(p->type) * p->depth, waits = p->out_type == U8 ? 4 * p->columns : 0;
    if (row * p->columns <= NEAR) return waits ? 24 : 96;
    const long rows = NEAR / (row + waits) / ROWS * ROWS;
    return rows < 96 ? 96 : rows > 384 ? 384 : rows;
}

static void quantise_waiting(const Product *p, long begin, long end) {
    for (long row = begin; row < end; row++)
        quantise_row(p->waiting + (row - begin) * p->columns, p->columns, (uint8_t *)p->out + row * p->columns,
                     p->out_scales + row, p->out_zeros + row);
}

/* Some of the columns for all rows. */
static void multiply_part(void *work, long part, long parts) {
    const Product *p = work;
    const long panels = (p->columns + COLUMNS - 1) / COLUMNS, block = rows_together(p);
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
    const long block = rows_together(&p), rows = is_shared || tokens < block ? tokens : block;
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
