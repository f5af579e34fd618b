/* upgrade.h - one form per operator: what an ONNX node says, between the file and graph_emit().
 *
 * A Call is a node with its inputs resolved. call_upgrade() rewrites it step by step into the newest form of its operator;
 * a step either changes the call in place or emits nodes itself and fills `out`. */
#ifndef OCTET_UPGRADE_H
#define OCTET_UPGRADE_H
#include "ir/op.h"

typedef struct CallAttr {
    const char *name;
    Attr value;
} CallAttr;
typedef struct Call {
    Graph *g;
    Arena *mem; /* of the graph */
    Diag *diag;
    const Loc *loc;
    const char *domain, *op; /* "" is ai.onnx */
    int opset;               /* version of that domain the model asks for */
    VEC(Val) in;
    VEC(CallAttr) attr;
    uint32_t nout;
    Val *out;         /* nout of them */
    const bool *used; /* nout of them: something reads this output */
    bool done;        /* out is filled: nothing is left to emit */
} Call;

bool call_upgrade(Call *c); /* false: reported */
bool call_emit(Call *c);    /* upgrade, check attributes, graph_emit; false: reported */
const OpDef *call_row(const char *domain,
                      const char *op); /* the row that a node's operator becomes; NULL: not supported */
int call_opset(const OpDef *row); /* the first opset of its domain that knows the newest form, which graphs hold */
const Attr *call_attr(const Call *c, const char *name); /* NULL: absent */
int64_t call_int(const Call *c, const char *name, int64_t otherwise);
Val call_in(const Call *c, uint32_t i); /* absent past the end */
#endif
