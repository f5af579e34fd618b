/* cache.h - finished kernels, found by what they were made from: those of this compilation, whose programs for calibration have many in common,
 * in memory; and, behind them, those in a folder that outlives it (--cache DIR).
 *
 * A key stands for the whole input of code generation: the kernel's unoptimised LLVM code with the target's features in it, and
 * the versions of what compiles it. A file appears whole or not at all, and one that is not as it was written is as good as none.
 * Any thread may get and put at any time. */
#ifndef OCTET_CACHE_H
#define OCTET_CACHE_H
#include "codegen/codegen.h"

typedef struct CacheKey { uint64_t word[2]; } CacheKey;
CacheKey cache_key(const void *p, size_t n);
bool cache_keys_equal(CacheKey a, CacheKey b);

Cache *cache_new(const char *folder);  /* NULL: memory alone. The text must live as long */
void cache_drop(Cache *c);             /* NULL: nothing */
bool cache_open(Cache *c, Diag *diag); /* makes the folder when it is missing; false: reported */
bool cache_get(Cache *c, CacheKey key, Arena *mem, Bytes *out); /* false: not there */
void cache_put(Cache *c, CacheKey key, Bytes b);                /* as well as it can: a full disk is no error */
enum { CACHE_MEGABYTES = 512, CACHE_MEMORY = 128 };             /* of the folder, and in memory */
void cache_trim(Cache *c); /* the files longest unused go, until the rest is below the limit */
#endif
