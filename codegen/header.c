/* header.c - NAME.h: all a C or C++ program needs to call the model: octet.h as it was when the model was compiled,
 * the one exported symbol, the names of inputs and outputs with their shapes, and calls with the model filled in. */
#include "codegen/image.h"
#include <ctype.h>

extern const char octet_blob_header[];
extern const uint64_t octet_blob_header_size;

const char *header_path(Arena *mem, const char *out)
{
    const char *slash = strrchr(out, '/'), *dot = strrchr(slash ? slash : out, '.');
    size_t n = dot && dot != out ? (size_t)(dot - out) : strlen(out);
    return arena_printf(mem, "%.*s.h", (int)n, out);
}

static const char *upper(Arena *mem, const char *name)
{
    char *p = arena_text(mem, name, strlen(name));
    for (char *c = p; *c; c++) *c = isalnum((unsigned char)*c) ? (char)toupper((unsigned char)*c) : '_';
    return p;
}

/* Comments must not end early or hold control characters. */
static const char *comment(Arena *mem, const char *text)
{
    char *p = arena_text(mem, text, strlen(text));
    for (char *c = p; *c; c++)
        if ((unsigned char)*c < ' ' || (*c == '/' && c > p && c[-1] == '*')) *c = '_';
    return p;
}

static void tensors_write(const Image *im, FILE *f, const char *kind, const Val *val, const char *const *name,
                          uint32_t n)
{
    const char *prefix = upper(im->mem, im->name);
    if (!n) return;
    fprintf(f, "enum {\n");
    Map seen = {0};
    for (uint32_t i = 0; i < n; i++) {
        const char *plain = name[i] ? name[i] : "",
                   *id = arena_printf(im->mem, "%s_%s_%s", prefix, kind, upper(im->mem, plain));
        if (!map_put(im->mem, &seen, id, 1)) id = arena_printf(im->mem, "%s_%u", id, (unsigned)i);
        const Type *t = val_type(im->g, val[i]);
        fprintf(f, "    %s = %u, /* %s: %s %s */\n", id, (unsigned)i, comment(im->mem, plain), dtypes[t->dtype].c,
                comment(im->mem, type_text(im->g->module, t, im->mem)));
    }
    fprintf(f, "    %s_%sS = %u\n};\n", prefix, kind, (unsigned)n);
}

typedef struct Call {
    const char *result, *name, *parameters, *arguments;
} Call;
static const Call calls[] = {
    {"size_t", "context_bytes", "void", NULL},
    {"OctetStatus", "context_init", "OctetContext *c", "c, $_octet_api.model"},
    {"void", "context_threads",
     "OctetContext *c, OctetPool *pool, OctetParallelFor host_for, void *host, int32_t threads",
     "c, pool, host_for, host, threads"},
    {"OctetStatus", "prepare", "OctetContext *c, const OctetTensor *in, OctetTensor *out, size_t *arena_bytes",
     "c, in, out, arena_bytes"},
    {"OctetStatus", "run", "OctetContext *c, const OctetTensor *in, OctetTensor *out, void *arena, size_t arena_bytes",
     "c, in, out, arena, arena_bytes"},
    {"const char *", "error_text", "const OctetContext *c", "c"},
};

static void calls_write(const Image *im, FILE *f)
{
    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        const Call *c = &calls[i];
        bool returns = strcmp(c->result, "void") != 0;
        const char *space = c->result[strlen(c->result) - 1] == '*' ? "" : " ";
        fprintf(f, "static inline %s%s%s_%s(%s) { %s%s_octet_api.%s", c->result, space, im->name, c->name,
                c->parameters, returns ? "return " : "", im->name, c->name);
        if (c->arguments && strchr(c->arguments, '$')) fprintf(f, "(c, %s_octet_api.model)", im->name);
        else if (c->arguments) fprintf(f, "(%s)", c->arguments);
        fprintf(f, "; }\n");
    }
}

bool header_write(const Image *im, FILE *f)
{
    const char *prefix = upper(im->mem, im->name);
    const Graph *g = im->g;
    fprintf(f,
            "/* %s: made by octet; do not edit.\n *\n"
            " * OctetContext *c = aligned_alloc(64, %s_context_bytes());\n"
            " * %s_context_init(c); %s_prepare(c, in, out, &bytes); %s_run(c, in, out, arena, bytes);\n"
            " * Memory of contexts and arenas is aligned to 64 bytes. */\n",
            im->name, im->name, im->name, im->name, im->name);
    fwrite(octet_blob_header, 1, octet_blob_header_size, f);
    fprintf(f, "\n#ifndef %s_OCTET_MODEL_H\n#define %s_OCTET_MODEL_H\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n",
            prefix, prefix);
    fprintf(f, "extern const OctetApi %s_octet_api;\n", im->name);
    if (im->arena_bytes != UINT64_MAX)
        fprintf(f, "#define %s_ARENA_BYTES(threads) (%lluu + %uu * (size_t)(threads))\n", prefix,
                (unsigned long long)im->arena_bytes, (unsigned)im->scratch);
    const char **name = NEW_ARRAY(im->mem, const char *, g->input.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++) name[i] = graph_val(g, g->input.at[i])->name;
    tensors_write(im, f, "INPUT", g->input.at, name, g->input.n);
    tensors_write(im, f, "OUTPUT", g->output.at, g->output_name.at, g->output.n);
    calls_write(im, f);
    fprintf(f, "#ifdef __cplusplus\n}\n#endif\n#endif\n");
    return !ferror(f);
}
