/* Functions of a number: the exponential and the activations. */

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
    x = larger(x, splat(-100.0f)); /* far from the smallest numbers, which take a hundred times as long */
    vf shifted = x + 12582912.0f;
    vf r = x - (shifted - 12582912.0f);
    vf p = splat(0.055171650333025395f);
    p = p * r + 0.24261114120106023f;
    p = p * r + 0.6932609906915674f;
    p = p * r + 0.9999280725127854f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

#if VECTOR == 64
/* A division takes as long as sixteen products; a guess to 14 bits and one step of Newton's take four. */
INLINE vf reciprocal(vf x) {
    const vf guess = (vf)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
}
#else
INLINE vf reciprocal(vf x) { return 1.0f / x; }
#endif

INLINE vf sigmoid(vf x) { return reciprocal(1.0f + exponential(-x)); }

/* The exact GELU to 3e-7 of the larger of 1 and |x|: a quotient of polynomials for the normal distribution on
 * [-5.6, 5.6], fitted to 1e-8 by least squares with weights raised where the error was largest. */
INLINE vf gelu_exact(vf x) {
    const vf near = within(x, 5.6f), s = near * near;
    vf p = splat(2.2145355771385266e-08f), q = splat(1.1802121662185527e-06f);
    p = p * s + 6.356517587846611e-06f;
    q = q * s + 7.510152499889955e-05f;
    p = p * s + 0.0001738495921017602f;
    q = q * s + 0.0019129717256873846f;
    p = p * s + 0.004707252141088247f;
    q = q * s + 0.028940025717020035f;
    p = p * s + 0.034376002848148346f;
    q = q * s + 0.2528335750102997f;
    p = p * s + 0.398942232131958f;
    q = q * s + 1.0f;
    return larger(splat(-5.6f), x) * (p * near * reciprocal(q) + 0.5f);
}

/* The exact GELU to 5e-4, or 2e-7 of |x| where that is more, for results of eight or sixteen bits: a polynomial for the distribution on [-3.7, 3.7]
 * that is exactly 0 and 1 at the ends, with the least largest error. */
INLINE vf gelu_short(vf x) {
    const vf near = within(x, 3.7f), s = near * near;
    vf p = splat(-4.899715102779283e-07f);
    p = p * s + 2.688868809094236e-05f;
    p = p * s - 0.0006175008409134794f;
    p = p * s + 0.007848691939954645f;
    p = p * s - 0.06258770431564842f;
    p = p * s + 0.39647507894204276f;
    return x * (p * near + 0.5f);
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
