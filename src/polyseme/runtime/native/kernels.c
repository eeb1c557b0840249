/* The arithmetic of packed states: products, norms, attention, quantising.
 *
 * Compiled on the machine it runs on, for the instructions that it has (see building.py). One thread a call,
 * unless `native_share` said that this thread may use more (see team.h). Rows of numbers are walked in vectors
 * that every processor has in some width; only the dot products of bfloat16 and of bytes name instructions.
 */

#define _GNU_SOURCE /* for threads on cores of their own */
#include <math.h>
#include <stdlib.h>

#include "team.h"

#include "vectors.h"
#include "functions.h"
#include "quantising.h"
#include "tiles.h"
#include "words.h"

#include "norms.h"
#include "linears.h"
#include "attention.h"
#include "pooling.h"
#include "replay.h"

/* ---- what was compiled ---- */

int native_columns(void) { return COLUMNS; }

/* How far two neighbouring weights of one sign may be from 0 together; 0: as far as their bytes reach. Older
 * instructions add two products in sixteen bits, into which 255 · 128 fits. */
int native_pair_limit(void) {
#if defined(HAS_BYTE_DOT)
    return 0;
#else
    return 32767 / LEVELS;
#endif
}

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
