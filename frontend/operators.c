/* operators.c - `octet operators`: the operator table as Markdown, from the rows themselves. docs/OPERATORS.md is this
 * output; tests/docs/run.sh compares the two. */
#include "frontend/cli.h"
#include "ir/op.h"
#include <stdlib.h>

typedef struct Domain {
    const char *name, *text;
} Domain;
static const Domain domains[] = {
    {"", "Operators of the domain ai.onnx."},
    {"com.microsoft", "Operators of the domain com.microsoft, which exporters and ONNX Runtime's tools write."},
    {"octet", "Operators that only passes make; no model file holds them."},
};

static const char *const quants[] = {[QUANT_NONE] = "float",      [QUANT_PASS] = "moves 8-bit", [QUANT_LUT] = "table",
                                     [QUANT_RESCALE] = "rescale", [QUANT_INTEGER] = "integer",  [QUANT_STATE] = "integer state", [QUANT_SUMS] = "sums",       [QUANT_EDGE] = "edge"};

static const char *domain_of(const OpDef *op) { return op->domain && strcmp(op->domain, "ai.onnx") ? op->domain : ""; }

static const char *meaning_of(const OpDef *op)
{
    return op->body ? "scalar body" : op->lower ? "lowering" : "expansion";
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const OpDef *const *)a)->name, (*(const OpDef *const *)b)->name);
}

/* What the row's type variables may be, for those its signature uses. */
static void print_types(const OpDef *op)
{
    const char *const list[] = {op->T, op->U, op->V}, *before = "";
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        if (!list[i]) continue;
        printf("%s%c: %s", before, "TUV"[i], list[i]);
        before = "; ";
    }
}

static void print_row(const OpDef *op)
{
    printf("| %s | %d | `%s` | ", op->name, op->since, op->sig);
    print_types(op);
    printf(" | %s | %s |\n", meaning_of(op), quants[op->quant]);
}

static void print_domain(const Domain *domain, const OpDef **op, uint32_t n)
{
    printf("\n## %s\n\n%s %u rows.\n\n", *domain->name ? domain->name : "ai.onnx", domain->text, n);
    puts("| operator | since | signature | types | meaning | int8 |\n| --- | --- | --- | --- | --- | --- |");
    for (uint32_t i = 0; i < n; i++) print_row(op[i]);
}

static const char head[] =
    "# Operators\n"
    "\n"
    "Printed by `octet operators` from the rows of `ir/ops/`; `tests/docs/run.sh` fails when this page is stale and\n"
    "`BLESS=1 bash tests/docs/run.sh` rewrites it.\n"
    "\n"
    "* since: the oldest opset in which the operator has this meaning. Models of opset 1 to 28 are read; older forms\n"
    "  are rewritten to the one of the row while the model is imported (`frontend/upgrade.c`).\n"
    "* signature: `name:type`, `?` optional, `?=k` optional with a default value, `*` one or more. `T`, `U`, `V` are "
    "type\n"
    "  variables. The classes are float (f16, bf16, f32, f64), int (signed and unsigned), uint, bool, number (all of "
    "these and what is narrower) and any.\n"
    "* meaning: how the row says what it computes: a scalar body, a lowering to tensor formulas, or an expansion into\n"
    "  other operators.\n"
    "* int8: what `--quantize int8` makes of it. integer: a contraction with int32 accumulation. table: unary on 8 "
    "bits,\n"
    "  a table of 256 entries. moves 8-bit: moves elements, with one scale in and out. rescale: float arithmetic on\n"
    "  8-bit operands, fused with its neighbours. edge: is itself the border. float: stays float.\n";

int command_operators(const Options *o, Diag *d)
{
    (void)d;
    uint32_t all = 0;
    while (op_at(all)) all++;
    const OpDef **op = NEW_ARRAY(o->mem, const OpDef *, all + 1);
    fputs(head, stdout);
    for (size_t k = 0; k < COUNT_OF(domains); k++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < all; i++)
            if (!strcmp(domain_of(op_at(i)), domains[k].name)) op[n++] = op_at(i);
        qsort(op, n, sizeof *op, by_name);
        print_domain(&domains[k], op, n);
    }
    return 0;
}
