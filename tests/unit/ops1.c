/* Operator rows of elementwise.c, shape.c, index.c and reduce.c, a case a line: operator, attributes, inputs, result.
 *
 * A tensor is written "f32[2,3] 1 2 3 4 5 6": type, sizes, then elements; without elements it is a graph input, and
 * sizes may be names. Constant inputs are folded through the interpreter, so the result is data; otherwise it is a
 * type. */
#include "ir/dim.h"
#include "ir/graph.h"
#include "ir/lower.h"
#include "ir/op.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

typedef struct Case {
    const char *op, *attrs, *in[5], *want;
} Case;
typedef struct World {
    Arena mem;
    Diag diag;
    Module module;
    Graph *g;
} World;

static void world_open(World *w)
{
    memset(w, 0, sizeof *w);
    w->diag = (Diag){.mem = &w->mem, .subject = ""};
    w->module = (Module){.mem = &w->mem, .dim = dims_new(&w->mem), .diag = &w->diag, .name = "test"};
    w->g = graph_new(&w->module, &w->mem, "test");
}

/* Reads "f32[2,N] ..." up to the elements. */
static Type parse_type(World *w, const char **s)
{
    Type t = {.dtype = DT_NONE};
    size_t n = strcspn(*s, "[");
    t.dtype = dtype_find(*s, (int)n);
    cr_assert(t.dtype, "no type in %s", *s);
    *s += n + 1;
    while (**s != ']') {
        char *end;
        long v = strtol(*s, &end, 10);
        if (end != *s) {
            t.dim[t.rank++] = dim_const(w->module.dim, v), *s = end;
        } else {
            n = strcspn(*s, ",]");
            t.dim[t.rank++] = dim_symbol(w->module.dim, arena_text(&w->mem, *s, n), DIM_INPUT, 0), *s += n;
        }
        if (**s == ',') ++*s;
    }
    ++*s;
    return t;
}

static Tensor *parse_tensor(World *w, const char *s, Type *type)
{
    *type = parse_type(w, &s);
    int64_t dim[MAX_RANK], count = 1;
    for (int i = 0; i < type->rank; i++) {
        if (!dim_is_const(w->module.dim, type->dim[i], &dim[i])) return NULL;
        count *= dim[i];
    }
    if (!*s && count) return NULL;
    Tensor *t = tensor_new(&w->mem, type->dtype, type->rank, dim);
    for (int64_t i = 0; i < count; i++) {
        char *end;
        if (dtype_is_float(t->type)) dtype_store(t->type, (void *)t->data, i, strtod(s, &end));
        else dtype_store_int(t->type, (void *)t->data, i, strtoll(s, &end, 10));
        cr_assert(end != s, "too few elements in %s", s);
        s = end;
    }
    return t;
}

static Val parse_input(World *w, const char *s)
{
    Type type;
    if (!s || !*s) return (Val){0};
    const Tensor *t = parse_tensor(w, s, &type);
    return t ? graph_const(w->g, t, NULL) : graph_input(w->g, "x", type);
}

/* "axis=1 mode=edge perm=1,0" by the kinds of the schema. */
static Attr *parse_attrs(World *w, const OpDef *op, const char *s)
{
    Attr *a = op_attr_defaults(&w->mem, op);
    while (*s) {
        size_t n = strcspn(s, "="), len = strcspn(s + n + 1, " ");
        const char *name = arena_text(&w->mem, s, n), *value = arena_text(&w->mem, s + n + 1, len);
        int i = op_attr_index(op, name);
        cr_assert(i >= 0, "%s has no attribute %s", op->name, name);
        AttrKind kind = op_schema(op)->attr[i].kind;
        if (kind == ATTR_INT) attr_set_int(op, a, name, strtoll(value, NULL, 10));
        if (kind == ATTR_FLOAT) attr_set_float(op, a, name, strtof(value, NULL));
        if (kind == ATTR_STRING) attr_set_str(op, a, name, value);
        if (kind == ATTR_INTS) {
            int64_t *v = NEW_ARRAY(&w->mem, int64_t, MAX_RANK);
            uint32_t count = 0;
            for (char *end = (char *)value; *value; value = *end ? end + 1 : end) v[count++] = strtoll(value, &end, 10);
            attr_set_ints(op, a, name, v, count);
        }
        s += n + 1 + len, s += *s == ' ';
    }
    return a;
}

static void check_tensor(const Case *c, const Tensor *got, const Tensor *want)
{
    cr_assert(got, "%s(%s): not folded", c->op, c->attrs);
    cr_assert(got->type == want->type && got->rank == want->rank, "%s(%s): %s of rank %d", c->op, c->attrs,
              dtypes[got->type].name, got->rank);
    for (int i = 0; i < got->rank; i++)
        cr_assert(got->dim[i] == want->dim[i], "%s(%s): size %d is %d", c->op, c->attrs, i, (int)got->dim[i]);
    for (int64_t i = 0; i < tensor_count(got); i++) {
        double x = dtype_load(got->type, got->data, i), y = dtype_load(want->type, want->data, i);
        bool same = x == y || (x != x && y != y) || fabs(x - y) <= 1e-5 * fmax(1, fabs(y));
        cr_assert(same, "%s(%s): element %d is %g, expected %g", c->op, c->attrs, (int)i, x, y);
    }
}

static void check_case(const Case *c)
{
    World w;
    Val in[5], out[8] = {{0}};
    uint32_t nin = 0, nout = 1;
    Type type;
    world_open(&w);
    for (int i = 0; i < 5; i++)
        if ((in[i] = parse_input(&w, c->in[i])).id) nin = (uint32_t)i + 1;
    const OpDef *op = op_find(NULL, c->op);
    cr_assert(op, "no row %s", c->op);
    for (const char *s = c->want; (s = strchr(s, ';')); s++) nout++;
    graph_emit(w.g, op, parse_attrs(&w, op, c->attrs), in, nin, nout, NULL, out);
    if (!strcmp(c->want, "error")) {
        cr_assert(w.diag.errors == 1, "%s(%s): expected an error", c->op, c->attrs);
        arena_drop(&w.mem);
        return;
    }
    cr_assert(!w.diag.errors, "%s(%s): %s", c->op, c->attrs, w.diag.line.n ? w.diag.line.at[0] : "");
    const char *s = c->want;
    for (uint32_t o = 0; o < nout; o++, s += strcspn(s, ";"), s += *s == ';', s += strspn(s, " ")) {
        const char *one = arena_text(&w.mem, s, strcspn(s, ";"));
        const Tensor *want = strchr(one, ']') && strchr(one, ']')[1] ? parse_tensor(&w, one, &type) : NULL;
        if (want) check_tensor(c, graph_val(w.g, out[o])->konst, want);
        else
            cr_assert_str_eq(type_text(&w.module, val_type(w.g, out[o]), &w.mem), one, "%s(%s): %s, expected %s", c->op,
                             c->attrs, type_text(&w.module, val_type(w.g, out[o]), &w.mem), one);
    }
    arena_drop(&w.mem);
}

static void check_cases(const Case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) check_case(&c[i]);
}

Test(ops1, elementwise)
{
    static const Case cases[] = {
        {"Add", "", {"f32[2,1] .5 1.5", "f32[3] 1 2 3"}, "f32[2,3] 1.5 2.5 3.5 2.5 3.5 4.5"},
        {"Add", "", {"u8[2] 250 1", "u8[2] 10 1"}, "u8[2] 4 2"},
        {"Sub", "", {"f16[2] 1.5 2", "f16[] .5"}, "f16[2] 1 1.5"},
        {"Div", "", {"i32[4] 7 -7 7 -7", "i32[4] 2 2 -2 -2"}, "i32[4] 3 -3 -3 3"},
        {"Mod", "", {"i32[4] 7 -7 7 -7", "i32[4] 3 3 -3 -3"}, "i32[4] 1 2 -2 -1"},
        {"Mod", "fmod=1", {"f32[2] -4.3 5.5", "f32[2] 2.1 -2"}, "f32[2] -0.1 1.5"},
        {"Pow", "", {"f32[4] 1.5 4 3 -2", "f32[4] 2 .5 0 3"}, "f32[4] 2.25 2 1 -8"},
        {"Pow", "", {"f32[2] 1.5 -3", "f32[] 2"}, "f32[2] 2.25 9"},
        {"Pow", "", {"i32[2] 2 3", "i64[2] 10 4"}, "i32[2] 1024 81"},
        {"Max", "", {"f32[3] 1.5 2.5 nan", "f32[3] 3 1 1", "f32[] 2"}, "f32[3] 3 2.5 nan"},
        {"Mean", "", {"f32[2] 1 2", "f32[2] 2 3.5"}, "f32[2] 1.5 2.75"},
        {"Equal", "", {"bool[2] 0 1", "bool[2] 1 1"}, "bool[2] 0 1"},
        {"Less", "", {"f32[3] 1.5 2 nan", "f32[] 2"}, "bool[3] 1 0 0"},
        {"Not", "", {"bool[2] 0 1"}, "bool[2] 1 0"},
        {"Xor", "", {"bool[4] 0 0 1 1", "bool[4] 0 1 0 1"}, "bool[4] 0 1 1 0"},
        {"BitwiseNot", "", {"u8[2] 0 15"}, "u8[2] 255 240"},
        {"BitShift", "direction=RIGHT", {"i8[4] -8 -8 64 -1", "i8[4] 1 -1 9 7"}, "i8[4] -4 -1 0 -1"},
        {"BitShift", "direction=LEFT", {"u8[3] 16 1 1", "u8[3] 1 7 8"}, "u8[3] 32 128 0"},
        {"Where", "", {"bool[2] 1 0", "f32[2] 1.5 2.5", "f32[] 9"}, "f32[2] 1.5 9"},
        {"Sign", "", {"f32[4] -1.5 0 2.5 nan"}, "f32[4] -1 0 1 nan"},
        {"Round", "", {"f32[4] .5 1.5 2.5 -2.5"}, "f32[4] 0 2 2 -2"},
        {"Clip", "", {"f32[3] -1.5 .5 3", "f32[] 0"}, "f32[3] 0 .5 3"},
        {"Clip", "", {"i8[3] -100 5 30", "", "i8[] 6"}, "i8[3] -100 5 6"},
        {"LeakyRelu", "alpha=0.1", {"f32[2] -1.5 2.5"}, "f32[2] -.15 2.5"},
        {"Shrink", "lambd=1.5 bias=1.5", {"f32[3] -2 .5 2"}, "f32[3] -.5 0 .5"},
        {"Softplus", "", {"f32[3] -30.5 0.5 200.5"}, "f32[3] 5.6757e-14 0.974077 200.5"},
        {"Gelu", "approximate=tanh", {"f32[2] -1.5 1.5"}, "f32[2] -0.100428 1.399572"},
        {"Gelu", "", {"f32[2] -1.5 1.5"}, "f32[2] -0.100211 1.399789"},
        {"IsInf", "detect_negative=0", {"f32[3] inf -inf nan"}, "bool[3] 1 0 0"},
        {"IsNaN", "", {"f16[2] nan 1"}, "bool[2] 1 0"},
        {"Cast", "to=6", {"f32[3] 1.7 -1.7 0"}, "i32[3] 1 -1 0"},
        {"Cast", "to=9", {"f32[3] .5 0 -1"}, "bool[3] 1 0 1"},
        {"Cast", "to=17 saturate=0", {"f32[2] 1.5 1e6"}, "f8e4m3fn[2] 1.5 nan"},
        {"Cast", "to=17", {"f32[2] 1.5 1e6"}, "f8e4m3fn[2] 1.5 448"},
        {"Cast", "to=19 saturate=0", {"f32[3] 1e6 -1e6 .5"}, "f8e5m2[3] inf -inf .5"},
        {"Cast", "to=19", {"f32[2] -inf 1e6"}, "f8e5m2[2] -57344 57344"},
        {"Cast", "to=24", {"f32[3] 1 3 .375"}, "f8e8m0[3] 1 4 .5"},
        {"Dropout", "", {"f32[2] 1 2.5", "f32[] .5"}, "f32[2] 1 2.5; bool[2] 1 1"},
        {"Dropout", "", {"f32[2]", "f32[] .5", "bool[] 1"}, "error"},
        {"BitCast", "to=6", {"f32[1] 1.5"}, "i32[1] 1069547520"},
        {"BitCast", "to=12", {"f32[1] -1.5"}, "u32[1] 3217031168"},
        {"BitCast", "to=3", {"f32[1] -1.5"}, "error"},
        {"Add", "", {"f32[2] 1 2", "f32[3] 1 2 3"}, "error"},
        {"Add", "", {"f32[N,3]", "f32[3] 1 2 3.5"}, "f32[N,3]"},
    };
    check_cases(cases, COUNT_OF(cases));
}

Test(ops1, shape_moves)
{
    static const Case cases[] = {
        {"Reshape", "", {"f32[2,3] 1 2 3 4 5 6.5", "i64[2] 3 -1"}, "f32[3,2] 1 2 3 4 5 6.5"},
        {"Transpose", "perm=1,0", {"f32[2,3] 1 2 3 4 5 6.5"}, "f32[3,2] 1 4 2 5 3 6.5"},
        {"Transpose", "", {"i64[2,3] 1 2 3 4 5 6"}, "i64[3,2] 1 4 2 5 3 6"},
        {"Expand", "", {"f32[2,1] 1 2.5", "i64[3] 2 1 2"}, "f32[2,2,2] 1 1 2.5 2.5 1 1 2.5 2.5"},
        {"Tile", "", {"f32[1,2] 1 2.5", "i64[2] 2 2"}, "f32[2,4] 1 2.5 1 2.5 1 2.5 1 2.5"},
        {"Concat", "axis=-1", {"f32[2,1] 1 2", "f32[2,2] 3 4 5 6.5"}, "f32[2,3] 1 3 4 2 5 6.5"},
        {"Split", "axis=1", {"f32[2,3] 1 2 3 4 5 6.5"}, "f32[2,2] 1 2 4 5; f32[2,1] 3 6.5"},
        {"Split", "", {"i64[4] 1 2 3 4", "i64[2] 1 3"}, "i64[1] 1; i64[3] 2 3 4"},
        {"Slice",
         "",
         {"f32[5] 0 1 2 3 4.5", "i64[1] -1", "i64[1] -9223372036854775808", "i64[1] 0", "i64[1] -2"},
         "f32[3] 4.5 2 0"},
        {"Slice", "", {"f32[2,4] 0 1 2 3 4 5 6 7.5", "i64[1] 1", "i64[1] 1000", "i64[1] -1"}, "f32[2,3] 1 2 3 5 6 7.5"},
        {"Slice", "", {"i64[4] 0 1 2 3", "i64[1] 3", "i64[1] 1"}, "i64[0]"},
        {"Pad", "", {"f32[2] 1 2.5", "i64[2] 1 2", "f32[] 9"}, "f32[5] 9 1 2.5 9 9"},
        {"Pad", "", {"f32[4] 1 2 3 4.5", "i64[2] -1 1"}, "f32[4] 2 3 4.5 0"},
        {"Pad", "mode=reflect", {"f32[3] 1 2 3.5", "i64[2] 5 2"}, "f32[10] 2 1 2 3.5 2 1 2 3.5 2 1"},
        {"Pad", "mode=edge", {"f32[2] 1 2.5", "i64[2] 2 1"}, "f32[5] 1 1 1 2.5 2.5"},
        {"Pad", "mode=wrap", {"f32[3] 1 2 3.5", "i64[2] 4 2"}, "f32[9] 3.5 1 2 3.5 1 2 3.5 1 2"},
        {"DepthToSpace", "blocksize=2", {"f32[1,4,1,1] 1 2 3 4.5"}, "f32[1,1,2,2] 1 2 3 4.5"},
        {"Trilu", "upper=0", {"f32[2,3] 1 2 3 4 5 6.5", "i64[] 1"}, "f32[2,3] 1 2 0 4 5 6.5"},
        {"Squeeze", "", {"f32[1,2,1] 1 2.5", "i64[1] 0"}, "f32[2,1] 1 2.5"},
        {"Range", "", {"f32[] 1", "f32[] 2.1", "f32[] .5"}, "f32[3] 1 1.5 2"},
        {"Range", "", {"i64[] 10", "i64[] 4", "i64[] -3"}, "i64[2] 10 7"},
        {"CenterCropPad", "", {"f32[4] 1 2 3 4.5", "i64[1] 2"}, "f32[2] 2 3"},
        {"EyeLike", "k=1", {"f32[2,3] 0 0 0 0 0 0"}, "f32[2,3] 0 1 0 0 0 1"},
        {"Squeeze", "", {"f32[2] 1 2", "i64[1] 0"}, "error"},
        {"Reshape", "", {"f32[5] 1 2 3 4 5", "i64[2] 2 -1"}, "error"},
    };
    check_cases(cases, COUNT_OF(cases));
}

Test(ops1, symbolic_shapes)
{
    static const Case cases[] = {
        {"Reshape", "", {"f32[B,S,768]", "i64[4] 0 0 12 64"}, "f32[B,S,12,64]"},
        {"Reshape", "", {"f32[B,S,12,64]", "i64[3] 0 -1 768"}, "f32[B,S,768]"},
        {"Reshape", "", {"f32[B,S,768]", "i64[2] -1 768"}, "f32[B*S,768]"},
        {"Flatten", "axis=2", {"f32[B,3,H]"}, "f32[3*B,H]"},
        {"Slice", "", {"f32[B,S]", "i64[1] 1", "i64[1] 9223372036854775807", "i64[1] 0"}, "f32[pos(B - 1),S]"},
        {"Slice", "", {"f32[B,S]", "i64[1] 0", "i64[1] 2147483647", "i64[1] 1"}, "f32[B,S]"},
        {"Unsqueeze", "", {"f32[B,S]", "i64[2] 0 -1"}, "f32[1,B,S,1]"},
        {"Concat", "axis=1", {"f32[B,2]", "f32[B,S]"}, "f32[B,S + 2]"},
        {"Split", "axis=1", {"f32[B,6]"}, "f32[B,3]; f32[B,3]"},
        {"Tile", "", {"f32[B,2]", "i64[2] 2 3"}, "f32[2*B,6]"},
        {"Pad", "", {"f32[B,2]", "i64[4] 0 1 0 1"}, "f32[B,4]"},
        {"Pad", "", {"f32[B,2]", "i64[2,2]"}, "error"},
        {"InstanceNormalization", "", {"f32[B,2,S]", "f32[1,2]", "f32[2]"}, "error"},
        {"EyeLike", "dtype=-2", {"f32[2,2]"}, "error"},
        {"QuantizeLinear", "output_dtype=1", {"f32[B]", "f32[]"}, "error"},
        {"Gather", "axis=1", {"f32[B,9,4]", "i64[3] 0 -1 5"}, "f32[B,3,4]"},
        {"GatherND", "batch_dims=1", {"f32[B,S,8]", "i64[B,3,1]"}, "f32[B,3,8]"},
        {"ReduceMean", "keepdims=0", {"f32[B,S,8]", "i64[1] 1"}, "f32[B,8]"},
        {"ReduceSum", "", {"f32[B,S,8]"}, "f32[1,1,1]"},
        {"TopK", "", {"f32[B,9]", "i64[1] 3"}, "f32[B,3]; i64[B,3]"},
        {"Expand", "", {"f32[B,1]", "i64[3] 2 1 5"}, "f32[2,B,5]"},
        {"DepthToSpace", "blocksize=2", {"f32[B,8,H,W]"}, "f32[B,2,2*H,2*W]"},
        {"Gather", "", {"f32[5,2]", "i64[1] 5"}, "error"},
        {"Concat", "axis=1", {"f32[2,2]", "f32[3,2]"}, "error"},
    };
    check_cases(cases, COUNT_OF(cases));
}

Test(ops1, indices)
{
    static const Case cases[] = {
        {"Gather", "axis=1", {"f32[2,3] 1 2 3 4 5 6.5", "i64[2] -1 0"}, "f32[2,2] 3 1 6.5 4"},
        {"Gather", "", {"f32[2,2] 1 2 3 4.5", "i64[] 1"}, "f32[2] 3 4.5"},
        {"GatherElements", "axis=1", {"f32[2,2] 1 2 3 4.5", "i32[2,2] 0 0 -1 0"}, "f32[2,2] 1 1 4.5 3"},
        {"GatherND", "", {"f32[2,2] 1 2 3 4.5", "i64[2,2] 0 0 1 -1"}, "f32[2] 1 4.5"},
        {"GatherND", "batch_dims=1", {"f32[2,2] 1 2 3 4.5", "i64[2,1] 1 0"}, "f32[2] 2 3"},
        {"ScatterElements", "axis=1", {"f32[1,4] 1 2 3 4", "i64[1,2] 1 -1", "f32[1,2] 9.5 8"}, "f32[1,4] 1 9.5 3 8"},
        {"ScatterElements", "reduction=add", {"f32[3] 1 2 3", "i64[3] 1 1 0", "f32[3] .5 .5 1"}, "f32[3] 2 3 3"},
        {"ScatterND", "reduction=max", {"f32[4] 1 2 3 4", "i64[3,1] 1 1 3", "f32[3] 9.5 8 0"}, "f32[4] 1 9.5 3 4"},
        {"ScatterND", "", {"f32[2,2] 1 2 3 4", "i64[1,1] 1", "f32[1,2] 9.5 8"}, "f32[2,2] 1 2 9.5 8"},
        {"OneHot", "", {"i64[3] 0 -1 5", "i64[] 3", "f32[2] 2.5 9"}, "f32[3,3] 9 2.5 2.5 2.5 2.5 9 2.5 2.5 2.5"},
        {"OneHot", "axis=0", {"i64[2] 0 1", "f32[1] 2", "i32[2] 0 1"}, "i32[2,2] 1 0 0 1"},
        {"ArgMax", "axis=1 keepdims=0", {"f32[2,3] 1 3.5 3.5 2 1 0"}, "i64[2] 1 0"},
        {"ArgMax", "axis=1 select_last_index=1", {"f32[1,3] 1 3.5 3.5"}, "i64[1,1] 2"},
        {"ArgMin", "", {"f32[3] 2 nan 1"}, "i64[1] 1"},
        {"TopK", "", {"f32[4] 1 3.5 2 3.5", "i64[1] 3"}, "f32[3] 3.5 3.5 2; i64[3] 1 3 2"},
        {"TopK", "largest=0", {"i32[12] 5 4 3 2 1 9 8 7 1 6 5 4", "i64[1] 2"}, "i32[2] 1 1; i64[2] 4 8"},
        {"TopK",
         "axis=0",
         {"f32[9,2] 1 9.5 2 8 3 7 4 6 5 5 6 4 7 3 8 2 9 1", "i64[1] 2"},
         "f32[2,2] 9 9.5 8 8; i64[2,2] 8 0 7 1"},
        {"CumSum", "", {"f32[2,3] 1 2 3 4 5 6.5", "i64[] 1"}, "f32[2,3] 1 3 6 4 9 15.5"},
        {"CumSum", "exclusive=1 reverse=1", {"f32[3] 1 2 3.5", "i64[] 0"}, "f32[3] 5.5 3.5 0"},
        {"CumProd", "reverse=1", {"f32[3] 1 2 3.5", "i64[] 0"}, "f32[3] 7 7 3.5"},
        {"ReverseSequence", "", {"f32[3,2] 1 2 3 4 5 6.5", "i64[2] 2 3"}, "f32[3,2] 3 6.5 1 4 5 2"},
        {"NonZero", "", {"f32[2,2] 1 0 .5 2"}, "i64[2,3] 0 1 1 0 0 1"},
        {"Compress", "axis=1", {"f32[2,3] 1 2 3 4 5 6.5", "bool[2] 0 1"}, "f32[2,1] 2 5"},
        {"Compress", "", {"f32[2,2] 1 2 3 4.5", "bool[4] 0 1 0 1"}, "f32[2] 2 4.5"},
        {"TensorScatter", "axis=1 mode=circular", {"f32[1,3] 1 2 3", "f32[1,2] 8.5 9", "i64[1] 2"}, "f32[1,3] 9 2 8.5"},
    };
    check_cases(cases, COUNT_OF(cases));
}

Test(ops1, reductions)
{
    static const Case cases[] = {
        {"ReduceSum", "", {"f32[2,2] 1 2 3 4.5", "i64[1] 1"}, "f32[2,1] 3 7.5"},
        {"ReduceSum", "noop_with_empty_axes=1", {"f32[2] 1 2.5"}, "f32[2] 1 2.5"},
        {"ReduceMean", "keepdims=0", {"f32[2,2] 1 2 3 4.5", "i64[1] -2"}, "f32[2] 2 3.25"},
        {"ReduceMax", "", {"f32[3] 1 -2 .5"}, "f32[1] 1"},
        {"ReduceMax", "", {"bool[2,2] 0 1 0 0", "i64[1] 1"}, "bool[2,1] 1 0"},
        {"ReduceMin", "", {"i8[3] 1 -2 5"}, "i8[1] -2"},
        {"ReduceProd", "keepdims=0", {"i64[3] 1 -2 5"}, "i64[] -10"},
        {"ReduceL1", "", {"f32[3] 1 -2 .5"}, "f32[1] 3.5"},
        {"ReduceL2", "", {"f32[2] 1.5 -2"}, "f32[1] 2.5"},
        {"ReduceL2", "", {"i32[2] 3 -4"}, "i32[1] 5"},
        {"ReduceSumSquare", "", {"f16[2] 1.5 -2"}, "f16[1] 6.25"},
        {"ReduceLogSum", "", {"f32[2] 1.5 1"}, "f32[1] 0.916291"},
        {"ReduceLogSumExp", "keepdims=0", {"f32[2,2] 1000.5 1000.5 -inf -inf", "i64[1] 1"}, "f32[2] 1001.193147 -inf"},
        {"ReduceMax", "", {"f32[0,2]", "i64[1] 0"}, "f32[1,2] -inf -inf"},
    };
    check_cases(cases, COUNT_OF(cases));
}

/* Splitting and merging sizes divides nothing that it need not. */
Test(ops1, reshape_groups)
{
    static const struct {
        const char *in, *shape, *want;
    } cases[] = {
        {"f32[B,S,768]", "i64[4] 0 0 12 64", "x[a1, a2, a3 * 64 + a4]"},
        {"f32[B,S,12,64]", "i64[3] 0 0 768", "x[a1, a2, a3 / 64, a3 % 64]"},
        {"f32[B,1,S]", "i64[3] 0 -1 1", "x[a1, 0, a2]"},
        {"f32[2,N,3]", "i64[2] 2 -1", "x[a1, a2 / 3, a2 % 3]"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        World w;
        int *buf_of;
        world_open(&w);
        Val y = emit(w.g, "Reshape", NULL, 2, parse_input(&w, cases[i].in), parse_input(&w, cases[i].shape));
        graph_output(w.g, y, "y");
        Kernel *k = lower_graph(w.g, &w.mem, &buf_of);
        cr_assert(k && k->stage.n == 1 && !w.diag.errors);
        const char *text = expr_text(k, k->stage.at[0].value, &w.mem), *at = strchr(text, '[');
        cr_assert(at && !strcmp(at, strchr(cases[i].want, '[')), "%s: %s", cases[i].in, text);
        arena_drop(&w.mem);
    }
}

/* Shape arithmetic as exporters write it keeps its meaning through the chain. */
Test(ops1, values_through_chains)
{
    World w;
    world_open(&w);
    Val x = parse_input(&w, "f32[B,3,H,W]"), shape = emit(w.g, "Shape", NULL, 1, x);
    Val one = parse_input(&w, "i64[1] 1"), two = parse_input(&w, "i64[1] 2"), minus = parse_input(&w, "i64[1] -1");
    Val h = emit(w.g, "Slice", NULL, 3, shape, two, parse_input(&w, "i64[1] 3"));
    Val b = emit(w.g, "Gather", NULL, 2, shape, parse_input(&w, "i64[] 0"));
    Val doubled = emit(w.g, "Mul", NULL, 2, h, two),
        b1 = emit(w.g, "Unsqueeze", NULL, 2, b, parse_input(&w, "i64[1] 0"));
    const OpDef *concat = op_find(NULL, "Concat");
    Val target =
        graph_emit(w.g, concat, parse_attrs(&w, concat, "axis=0"), (Val[]){b1, doubled, minus, one}, 4, 1, NULL, NULL);
    Val y = emit(w.g, "Reshape", NULL, 2, x, target);
    cr_assert(!w.diag.errors);
    const Type *t = val_type(w.g, y);
    cr_assert(t->rank == 4 && dim_same(t->dim[0], val_type(w.g, x)->dim[0]));
    cr_assert_str_eq(dim_text(w.module.dim, t->dim[1], &w.mem), "2*H");

    const OpDef *cast = op_find(NULL, "Cast");
    Val f = graph_emit(w.g, cast, parse_attrs(&w, cast, "to=1"), &h, 1, 1, NULL, NULL);
    Val half = emit(w.g, "Floor", NULL, 1, emit(w.g, "Mul", NULL, 2, f, parse_input(&w, "f32[1] .5")));
    Val back = graph_emit(w.g, cast, parse_attrs(&w, cast, "to=7"), &half, 1, 1, NULL, NULL);
    const Dim *e = graph_val(w.g, back)->elem;
    int64_t got;
    cr_assert(e && graph_val(w.g, back)->elems == 1);
    cr_assert(dim_eval(w.module.dim, e[0], (int64_t[]){1, 7, 5}, &got) && got == 3);
    arena_drop(&w.mem);
}
