/* checked.h - int64 arithmetic that says when the mathematical result does not fit. */
#ifndef OCTET_CHECKED_H
#define OCTET_CHECKED_H
#include <stdbool.h>
#include <stdint.h>

static inline bool checked_add(int64_t a, int64_t b, int64_t *r) { return !__builtin_add_overflow(a, b, r); }
static inline bool checked_sub(int64_t a, int64_t b, int64_t *r) { return !__builtin_sub_overflow(a, b, r); }
static inline bool checked_mul(int64_t a, int64_t b, int64_t *r) { return !__builtin_mul_overflow(a, b, r); }

/* Floor division by b > 0, and its remainder in [0, b). */
static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static inline int64_t floor_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }
/* Division by b > 0, rounded up. */
static inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
#endif
