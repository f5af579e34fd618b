/* The tables are closed: whatever is added as a row must be complete, and is tested by being there. */
#include "tests/unit/worlds.h"

/* ---- operators ---- */
Test(closed, every_operator_has_exactly_one_meaning)
{
    for (uint32_t i = 0; op_at(i); i++) {
        const OpDef *op = op_at(i);
        int meanings = (op->body != NULL) + (op->lower != NULL) + (op->expand != NULL);
        cr_expect(meanings == 1, "%s has %d of body, lower, expand", op->name, meanings);
    }
}

static bool is_class(const char *w)
{
    static const char *const classes[] = {"float", "int", "uint", "bool", "number", "any"};
    for (size_t i = 0; i < COUNT_OF(classes); i++)
        if (!strcmp(classes[i], w)) return true;
    return dtype_find(w, (int)strlen(w)) != DT_NONE;
}

Test(closed, type_variables_list_types)
{
    for (uint32_t i = 0; op_at(i); i++) {
        const char *lists[] = {op_at(i)->T, op_at(i)->U, op_at(i)->V};
        for (size_t l = 0; l < COUNT_OF(lists); l++) {
            char text[200], *word, *rest = text;
            snprintf(text, sizeof text, "%s", lists[l] ? lists[l] : "");
            while ((word = strtok_r(rest, " ", &rest))) cr_expect(is_class(word), "%s: '%s' is no type", op_at(i)->name, word);
        }
    }
}

Test(closed, schemas_fit_their_rows)
{
    for (uint32_t i = 0; op_at(i); i++) {
        const OpDef *op = op_at(i);
        const OpSchema *s = op_schema(op);
        for (uint32_t k = 0; k < s->nin; k++) {
            cr_expect(!s->in[k].variadic || k + 1 == s->nin, "%s: a variadic input is the last", op->name);
            cr_expect(!s->in[k].fallback || op->body, "%s: a fallback is for bodies", op->name);
        }
        for (uint32_t k = 0; k < s->nattr; k++)
            for (uint32_t j = 0; j < k; j++) cr_expect(strcmp(s->attr[k].name, s->attr[j].name) != 0, "%s: two attributes %s", op->name, s->attr[k].name);
        cr_expect((op->quant == QUANT_INTEGER) == (op->integer != NULL), "%s: QUANT_INTEGER rows name their integer form", op->name);
        cr_expect(!op->integer || op_find("", op->integer), "%s: no row %s", op->name, op->integer);
        cr_expect(op->since > 0, "%s: since which opset?", op->name);
    }
}

/* ---- bodies: each parses at every type its inputs may have ---- */
static int parse_body(const OpDef *op, DType t)
{
    enum { MOST = 24 };
    World w;
    world_open(&w);
    const OpSchema *s = op_schema(op);
    const char *name[MOST], *error = NULL;
    Expr arg[MOST];
    int n = 0;
    Kernel *k = kernel_new(&w.mem, w.module.dim, "body");
    for (uint32_t i = 0; i < s->nin; i++) {
        bool variable = s->in[i].type[0] >= 'A' && s->in[i].type[0] <= 'Z';
        DType in = variable ? t : dtype_find(s->in[i].type, (int)strlen(s->in[i].type));
        Expr at[MAX_RANK] = {0};
        int buf = kernel_buf(k, (Buf){.name = s->in[i].name, .kind = BUF_IN, .type = in});
        name[n] = s->in[i].name, arg[n++] = expr_load(k, buf, at);
    }
    for (uint32_t i = 0; i < s->nattr; i++)
        name[n] = s->attr[i].name, arg[n++] = s->attr[i].kind == ATTR_FLOAT && dtype_is_float(t) ? expr_float(k, t, 0.5) : expr_int(k, dtype_is_float(t) ? DT_i32 : t, 1);
    Expr e = scalar_parse(k, op->body, name, arg, n, &error);
    cr_expect(e && !error, "%s at %s: %s", op->name, dtypes[t].name, error ? error : "nothing");
    world_close(&w);
    return 1;
}

Test(closed, every_body_parses_at_every_type)
{
    int parsed = 0;
    for (uint32_t i = 0; op_at(i); i++)
        for (DType t = DT_NONE + 1; op_at(i)->body && t < DT_COUNT; t++)
            if (op_at(i)->T ? list_takes(op_at(i)->T, t) && dtype_compute(t) == t : t == DT_bool) parsed += parse_body(op_at(i), t);
    cr_expect(parsed > 100, "%d", parsed);
}
