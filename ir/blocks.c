/* blocks.c - matrices of codes, scales and zero points in the order of words (blocks.h). */
#include "ir/blocks.h"
#include <math.h>

bool block_fits(int64_t block, int bits)
{
    return block > 0 && block <= BLOCK_MOST && block % (BLOCK_WORD * 8 / bits) == 0;
}

const Tensor *block_words(Arena *mem, const Tensor *codes, int64_t block)
{
    int bits = dtypes[codes->type].bits, per = 8 / bits;
    int64_t k = codes->dim[0], n = codes->dim[1], blocks = (k + block - 1) / block, words = block / BLOCK_WORD;
    DType type = codes->type == DT_i8 ? DT_i8 : DT_u8;
    int64_t least = dtype_min(codes->type) - dtype_min(type);
    Tensor *to = tensor_new(mem, type, 4, (int64_t[]){blocks, words / per, BLOCK_WORD, n});
    uint8_t *byte = (uint8_t *)(uintptr_t)to->data;
    for (int64_t r = 0; r < k; r++) {
        int64_t word = r % block / BLOCK_WORD, row = (r / block * (words / per) + word / per) * BLOCK_WORD + r % BLOCK_WORD;
        for (int64_t c = 0; c < n; c++) {
            unsigned code = (uint8_t)(dtype_load_int(codes->type, codes->data, r * n + c) - least);
            byte[row * n + c] = (uint8_t)(byte[row * n + c] | code << (word % per * bits));
        }
    }
    return to;
}

const Tensor *block_zeros(Arena *mem, const double *zero, int64_t blocks, int64_t columns, int *steps)
{
    Tensor *to = tensor_new(mem, DT_u8, 2, (int64_t[]){blocks, columns});
    for (*steps = 1; *steps <= BLOCK_MOST_STEPS; *steps *= 2) {
        bool whole = true;
        for (int64_t i = 0; i < blocks * columns && whole; i++) {
            double z = zero[i] * *steps;
            whole = z >= 0 && z <= UINT8_MAX && z == rint(z);
            if (whole) dtype_store_int(DT_u8, (void *)(uintptr_t)to->data, i, (int64_t)z);
        }
        if (whole) return block_once(mem, to);
    }
    return NULL;
}

const Tensor *block_once(Arena *mem, const Tensor *t)
{
    size_t row = tensor_bytes(t) / (size_t)t->dim[0];
    for (int64_t i = 1; i < t->dim[0]; i++)
        if (memcmp(t->data, (const char *)t->data + (size_t)i * row, row) != 0) return t;
    Tensor *one = arena_copy(mem, t, sizeof *t);
    one->dim[0] = 1;
    return one;
}
