/* policy.h - how float numbers are stored and multiplied: --quantize bf16 and fp16, --fp32, --keep; and what that costs, measured. */
#ifndef OCTET_POLICY_H
#define OCTET_POLICY_H
#include "codegen/codegen.h"
#include "frontend/calibrate.h"
#include "frontend/options.h"

typedef struct Policy {
    const char *storage;   /* "bf16" or "fp16"; NULL: float32 */
    const char *fp32;      /* what float products are made of: a value of --fp32 */
    const char *why;       /* NULL, or why that is not the value asked for */
    Storage store;         /* the same for code generation */
    DType filtered;        /* what convolutions by minimal filtering multiply; DT_NONE: there are none */
    regex_t kept;
    bool measured;
    Difference difference; /* of the outputs, against float32 */
} Policy;

bool policy_read(Policy *p, const Options *o, Diag *d);  /* false: reported */
void policy_drop(Policy *p);
bool policy_changes(const Policy *p);                    /* is anything but float32 stored or multiplied? */
bool makes_codes(const Options *o);                      /* does --quantize change the graph, weights into codes? */
bool policy_check(const Options *o, Diag *d);            /* options that do not go together; false: reported */
#endif
