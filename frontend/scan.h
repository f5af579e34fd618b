/* scan.h - the first reader of untrusted bytes: checks a protobuf message without recursion and rewrites it in a safe form.
 *
 * protobuf-c has no depth limit, merges repeated singular messages in quadratic time, allocates many times the wire size for
 * empty messages and unknown fields, and copies every byte string. scan_message() refuses or removes all of that, so what it
 * hands to the parser is bounded in depth, memory and time. docs/HARDENING.md has the list. */
#ifndef OCTET_SCAN_H
#define OCTET_SCAN_H
#include "ir/base/diag.h"

enum { SCAN_DEPTH = 64 };   /* nested messages; Google's parsers stop at 100 */
enum { SCAN_BORROW = 256 }; /* raw_data of this many bytes is not copied: the message says where it lies */

struct ProtobufCMessageDescriptor;
typedef struct Scan {
    const uint8_t *at; /* the rewritten message: known fields only, canonical tags, large raw_data left out */
    size_t n;
    uint64_t memory; /* what unpacking it takes, an upper bound */
} Scan;

/* false: reported in d. At most `budget` bytes may be needed to unpack. */
bool scan_message(Arena *mem, Diag *d, const struct ProtobufCMessageDescriptor *type, const uint8_t *p, size_t n,
                  uint64_t budget, Scan *out);
#endif
