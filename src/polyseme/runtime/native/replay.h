/* Kernels as they were called once, called again by one call from outside: for a single short text, most of whose
 * time would go between them. */

typedef union {
    int64_t whole;
    double real;
    void *address;
} Word;

#define WORDS 20 /* of a call: which kernel, and its arguments */
#define W(i) call[1 + (i)].whole
#define F(i) (float)call[1 + (i)].real
#define P(i) call[1 + (i)].address

/* `tokens` and `rows` take the place of those that were recorded, which must not be fewer. The numbers of the
 * kernels are their places in the table of library.py. */
int native_replay(long calls, const Word *words, long tokens, long rows) {
    int failed = 0;
    for (const Word *call = words; !failed && call < words + calls * WORDS; call += WORDS) switch (call->whole) {
            case 0: failed = native_quantise(tokens, W(1), P(2), W(3), P(4), P(5), P(6)); break;
            case 1:
                failed = native_norm(tokens, W(1), P(2), W(3), P(4), W(5), W(6), P(7), P(8), F(9), W(10), P(11),
                                     W(12), P(13), W(14), P(15), P(16));
                break;
            case 2:
                failed = native_first_states(tokens, W(1), P(2), P(3), P(4), P(5), P(6), P(7), W(8), P(9), P(10),
                                             F(11), W(12), P(13), W(14), P(15), W(16), P(17), P(18));
                break;
            case 3:
                failed = native_linear(W(0), tokens, W(2), W(3), P(4), P(5), P(6), P(7), P(8), P(9), P(10),
                                       W(11), P(12), W(13), P(14), P(15));
                break;
            case 4:
                failed = native_attention(rows, P(1), W(2), W(3), P(4), W(5), F(6), W(7), W(8), P(9), P(10),
                                          P(11), W(12), P(13), W(14), P(15), P(16));
                break;
            case 5: failed = native_gate(tokens, W(1), P(2), P(3), W(4), P(5), W(6), P(7), P(8)); break;
            case 6: failed = native_mean(rows, P(1), P(2), W(3), P(4), W(5), P(6)); break;
            default: failed = 1;
        }
    return failed;
}
