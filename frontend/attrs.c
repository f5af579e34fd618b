/* attrs.c - AttributeProto to Attr: values copied out of the parsed message, references to a function's attributes resolved. */
#include "frontend/importer.h"

const char *copy_name(Import *im, const char *s)
{
    return s ? map_intern(im->m->mem, &im->m->names, s, strlen(s)) : "";
}

/* Files of IR version 1 leave the type out: the field that is there says it. */
static int type_of(const Onnx__AttributeProto *a)
{
    if (a->has_type && a->type != PB_UNDEFINED) return a->type;
    if (a->has_f) return PB_FLOAT;
    if (a->has_i) return PB_INT;
    if (a->has_s) return PB_STRING;
    if (a->t) return PB_TENSOR;
    if (a->g) return PB_GRAPH;
    if (a->n_floats) return PB_FLOATS;
    if (a->n_strings) return PB_STRINGS;
    if (a->sparse_tensor) return PB_SPARSE;
    return PB_INTS;
}

static const char *copy_bytes(Import *im, const ProtobufCBinaryData *b, const Loc *loc, const char *name)
{
    if (b->len && memchr(b->data, 0, b->len))
        return diag_error(im->diag, loc, "attribute '%s' is a string with a zero byte", name), NULL;
    return map_intern(im->m->mem, &im->m->names, b->len ? (const char *)b->data : "", b->len);
}

static bool read_strings(Import *im, const Onnx__AttributeProto *a, const Loc *loc, CallAttr *out)
{
    const char **list = NEW_ARRAY(im->mem, const char *, a->n_strings);
    for (size_t i = 0; i < a->n_strings; i++)
        if (!(list[i] = copy_bytes(im, &a->strings[i], loc, out->name))) return false;
    out->value = (Attr){.kind = ATTR_STRINGS, .n = (uint32_t)a->n_strings, .strings = list};
    return true;
}

static bool read_constant(Import *im, const Onnx__AttributeProto *a, const Loc *loc, CallAttr *out)
{
    const char *what = arena_printf(im->scratch, "attribute '%s'", out->name);
    Tensor *t = a->t && type_of(a) == PB_TENSOR ? weights_tensor(&im->weights, a->t, loc, what)
                : a->sparse_tensor              ? weights_sparse(&im->weights, a->sparse_tensor, loc, what)
                                                : (diag_error(im->diag, loc, "%s has no value", what), NULL);
    out->value = (Attr){.kind = ATTR_TENSOR, .n = 1, .tensor = t};
    return t != NULL;
}

static bool refer(const Scope *s, const char *name, CallAttr *out, bool *absent)
{
    *absent = true;
    for (uint32_t i = 0; i < s->attrs; i++)
        if (!strcmp(s->attr[i].name, name)) out->value = s->attr[i].value, *absent = false;
    return true;
}

bool read_attr(Import *im, const Scope *s, const Onnx__AttributeProto *a, const Loc *loc, CallAttr *out, bool *absent)
{
    *absent = false;
    out->name = copy_name(im, a->name);
    if (a->ref_attr_name && *a->ref_attr_name) return refer(s, a->ref_attr_name, out, absent);
    switch (type_of(a)) {
    case PB_FLOAT: out->value = (Attr){.kind = ATTR_FLOAT, .n = 1, .f = a->f}; return true;
    case PB_INT: out->value = (Attr){.kind = ATTR_INT, .n = 1, .i = a->i}; return true;
    case PB_STRING:
        out->value = (Attr){.kind = ATTR_STRING, .n = 1, .s = copy_bytes(im, &a->s, loc, out->name)};
        return out->value.s != NULL;
    case PB_FLOATS: {
        const float *f = arena_copy(im->mem, a->floats, a->n_floats * sizeof(float));
        out->value = (Attr){.kind = ATTR_FLOATS, .n = (uint32_t)a->n_floats, .floats = f};
        return true;
    }
    case PB_INTS: {
        const int64_t *v = arena_copy(im->mem, a->ints, a->n_ints * sizeof(int64_t));
        out->value = (Attr){.kind = ATTR_INTS, .n = (uint32_t)a->n_ints, .ints = v};
        return true;
    }
    case PB_STRINGS: return read_strings(im, a, loc, out);
    case PB_TENSOR:
    case PB_SPARSE: return read_constant(im, a, loc, out);
    default: return diag_error(im->diag, loc, "attribute '%s' is of a kind that is not supported", out->name);
    }
}
