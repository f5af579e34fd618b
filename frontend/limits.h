/* limits.h - what this machine can do, measured: the denominators of a profile. */
#ifndef OCTET_LIMITS_H
#define OCTET_LIMITS_H
#include "codegen/codegen.h"

enum { LIMIT_SIZES = 4 };
typedef struct Limits {
    double operations[OCTET_MATHS]; /* a second, all threads; 0: not measured */
    struct { size_t bytes; double rate; } read[LIMIT_SIZES]; /* a working set of all threads together, and bytes a second */
} Limits;
/* With the instructions of a level, on so many threads at once. unit[u]: is arithmetic of that unit wanted? Takes about a
 * fifth of a second. false: reported. */
bool limits_measure(Limits *l, const char *level, int threads, const bool *unit, Diag *d);
/* Seconds that so much work takes at least. */
double limits_least(const Limits *l, const OctetWork *w);
#endif
