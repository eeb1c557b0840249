/* One vector for a row, from the states of its tokens. */

/* The mean of the tokens `begins` to `ends` of each row, which are all of them or a part; of none it is 0. */
int native_mean(long rows, const int64_t *begins, const int64_t *ends, long size, const void *states, int type,
                float *out) {
    for (long row = 0; row < rows; row++, out += size) {
        memset(out, 0, (size_t)size * 4);
        for (long token = begins[row]; token < ends[row]; token++)
            read_row(out, at(states, type, token * size), type, size, 1);
        const float count = ends[row] > begins[row] ? (float)(ends[row] - begins[row]) : 1.0f;
        for (long i = 0; i < size; i++) out[i] /= count;
    }
    return 0;
}
