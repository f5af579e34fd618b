/* blocks.h - weights of few bits as octet.BlockProduct multiplies them (ir/ops/matmul.c; docs/adr/0013).
 *
 * A matrix of codes [K, N] in blocks of so many rows becomes words [blocks, block / 4 / n, 4, N]: n = 8 / bits codes lie in a byte, word w of a block, which
 * is four neighbouring codes of a column, in bits w % n of its four bytes. A last block that is not whole ends in zeros. Signed codes of 8 bits stay
 * what they are, so that a table of the same bytes is stored once; all others count from the least, and zero points always do. */
#ifndef OCTET_BLOCKS_H
#define OCTET_BLOCKS_H
#include "ir/tensor.h"

enum { BLOCK_WORD = 4, BLOCK_MOST = 4096, BLOCK_MOST_STEPS = 16 }; /* codes a word, codes a block, steps a code */

bool block_fits(int64_t block, int bits);                            /* whole bytes of whole words, whose sums fit 32 bits */
const Tensor *block_words(Arena *mem, const Tensor *codes, int64_t block);
/* Zero points [blocks][columns], or of one row that all have in common, as whole numbers of 1 / *steps of a code, *steps a power of two; NULL: they are
 * none. */
const Tensor *block_zeros(Arena *mem, const double *zero, int64_t blocks, int64_t columns, int *steps);
const Tensor *block_once(Arena *mem, const Tensor *t);               /* the first row, if all are the same; else t */
#endif
