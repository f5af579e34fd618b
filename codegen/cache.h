/* cache.h - finished kernels in a folder, found by what they were made from (--cache DIR).
 *
 * A key stands for the whole input of code generation: the kernel's unoptimised LLVM code with the target's features in it, and
 * the versions of what compiles it. A file appears whole or not at all, and one that is not as it was written is as good as none. */
#ifndef OCTET_CACHE_H
#define OCTET_CACHE_H
#include "codegen/codegen.h"

typedef struct CacheKey { uint64_t word[2]; } CacheKey;
CacheKey cache_key(const void *p, size_t n);
bool cache_keys_equal(CacheKey a, CacheKey b);
bool cache_open(const char *folder, Diag *diag);                 /* makes the folder when it is missing; false: reported */
bool cache_get(const char *folder, CacheKey key, Arena *mem, Bytes *out); /* false: not there */
void cache_put(const char *folder, CacheKey key, Bytes b);       /* as well as it can: a full disk is no error */
enum { CACHE_MEGABYTES = 512 };
void cache_trim(const char *folder);                             /* the files longest unused go, until the rest is below the limit */
#endif
