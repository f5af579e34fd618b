/* tables.c - the model as data: everything runtime/model.h describes, written into an ELF object with the weights.
 *
 * Comes in: the cut program with its kernels scheduled for every level. Order: sizes of all steps and buffers are
 * collected, the plan is made, sizes are numbered by phase, then the tables are put one after the other and OctetModel
 * and OctetApi point at them. */
#include "codegen/analyse.h"
#include "codegen/image.h"
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

typedef struct StepInfo {
    uint32_t *size;
    uint32_t sizes;
    uint32_t *range, *scratch;
    Dim *items;
} StepInfo; /* range, scratch: per level, a size reference; 0 where the step is skipped; items: the range where it runs */
typedef struct GuardRow {
    GuardKind kind;
    uint32_t a, b;
    const char *text;
} GuardRow; /* a, b: size references */
typedef struct Tables {
    Image *im;
    Arena *mem;
    Elf *elf;
    Sizes *z;
    Plan plan;
    StepInfo *step;
    uint32_t *runtime_buf; /* per program buffer: its index in the runtime's table */
    VEC(int) used;         /* the program buffers with an index, in order */
    uint32_t *bytes;       /* per program buffer in the arena: size reference of its bytes */
    Dim *written;          /* per program buffer: where some step writes it; id 0: none does */
    uint32_t *block;       /* per program buffer: its block, dynamic plan */
    VEC(int) blocks;       /* program buffers, by phase */
    uint64_t *weight_at;   /* per program buffer */
    VEC(GuardRow) guard;
    VEC(OctetCode) code; /* programs of sizes, then of what steps do */
    VEC(int64_t) number;
    Map numbers; /* by text: 1 + the index in number */
    Map programs;        /* of what steps do: by text of the Dim's number, 1 + its index in spans */
    VEC(OctetSpan) spans;
    VEC(const char *) function; /* the symbols of all levels, and by text 1 + the index */
    VEC(OctetSlice) slice;
    Map functions, slices;
    bool dynamic;
} Tables;

/* ---- collecting ---- */
static Buf *buf_at(const Tables *t, int b) { return &t->im->program->buf.at[b]; }

static bool in_arena(const Tables *t, int b)
{
    return buf_at(t, b)->kind == BUF_TMP || (buf_at(t, b)->kind == BUF_OUT && t->im->output_of[b] <= 0);
}

/* A temporary of one kernel that became registers or stack on every level needs no memory. */
static bool param_needs_memory(const Tables *t, uint32_t kernel, uint32_t param)
{
    for (uint32_t l = 0; l < t->im->levels; l++) {
        BufKind kind = t->im->level[l].kernel[kernel]->buf.at[param].kind;
        if (kind != BUF_LOCAL && kind != BUF_SHARED) return true;
    }
    return false;
}

static void buffer_use(Tables *t, int b)
{
    if (t->runtime_buf[b] != UINT32_MAX) return;
    t->runtime_buf[b] = vec_push(t->mem, &t->used, b);
}

/* A size of what is computed only under a condition: it may be anything, or absurd, elsewhere, and is 0 there. */
static Dim size_when(const Tables *t, Dim size, Dim when)
{
    return when.id && !dim_is_const(t->z->dim, size, NULL) ? dim_mul(t->z->dim, size, when) : size;
}

/* Bytes of the buffers in the arena, 0 where nothing writes them. */
static void bytes_collect(Tables *t)
{
    Dims *d = t->z->dim;
    Kernel *p = t->im->program;
    for (uint32_t s = 0; s < t->plan.steps; s++)
        for (uint32_t i = 0; i < t->plan.step[s].bufs; i++) {
            Dim *w = &t->written[t->plan.step[s].buf[i]], when = t->im->cut->step[s].when;
            if (!t->plan.step[s].writes[i] || dim_is(d, *w, 1)) continue;
            if (!when.id) *w = dim_const(d, 1);
            else if (!dim_same(*w, when)) *w = w->id ? dim_either(d, *w, when) : when;
        }
    for (uint32_t i = 0; i < t->used.n; i++) {
        int b = t->used.at[i];
        if (!in_arena(t, b)) continue;
        Dim elements = dim_canon(d, dim_of_expr(d, p, buf_elements(p, b), NULL));
        Dim bytes = dim_mul(d, elements, dim_const(d, dtypes[buf_at(t, b)->type].bytes));
        t->bytes[b] = size_ref(t->z, size_when(t, bytes, t->written[b]));
    }
}

/* Is this all that the kernel does with the buffer? */
static bool stores_apart(Kernel *k, int buf)
{
    Arena scratch = {0};
    LoadList loads = {0};
    bool stores = false, apart = true;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        stage_loads(k, &scratch, c, &loads);
        if (c->out == buf) stores = true, apart = apart && c->apart;
    }
    for (uint32_t i = 0; i < loads.at.n; i++) apart = apart && (int)expr_node(k, loads.at.at[i])->id != buf;
    arena_drop(&scratch);
    return stores && apart;
}

static void step_collect(Tables *t, uint32_t s)
{
    Image *im = t->im;
    const struct CutStep *c = &im->cut->step[s];
    Kernel *k = im->cut->kernel.at[c->kernel];
    uint32_t *buf = NEW_ARRAY(t->mem, uint32_t, c->bufs + 1);
    bool *writes = NEW_ARRAY(t->mem, bool, c->bufs + 1), *apart = NEW_ARRAY(t->mem, bool, c->bufs + 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->bufs; i++) {
        if (!param_needs_memory(t, c->kernel, i + 1)) continue;
        buffer_use(t, c->buf[i]);
        BufKind kind = k->buf.at[i + 1].kind;
        apart[n] = stores_apart(k, (int)i + 1);
        buf[n] = (uint32_t)c->buf[i], writes[n++] = kind == BUF_OUT || kind == BUF_TMP;
    }
    t->plan.step[s] = (PlanStep){.buf = buf, .writes = writes, .apart = apart, .bufs = n, .single = true};
    StepInfo *info = &t->step[s];
    info->sizes = c->sizes;
    info->size = NEW_ARRAY(t->mem, uint32_t, c->sizes + 1), info->range = NEW_ARRAY(t->mem, uint32_t, im->levels);
    info->scratch = NEW_ARRAY(t->mem, uint32_t, im->levels), info->items = NEW_ARRAY(t->mem, Dim, im->levels);
    for (uint32_t i = 0; i < c->sizes; i++) info->size[i] = size_ref(t->z, c->size[i]);
    for (uint32_t l = 0; l < im->levels; l++) {
        Kernel *scheduled = im->level[l].kernel[c->kernel];
        Dim range = dim_of_expr(t->z->dim, scheduled, kernel_range(scheduled), c->size);
        Dim scratch = dim_canon(t->z->dim, dim_of_expr(t->z->dim, scheduled, kernel_scratch(scheduled), c->size));
        info->items[l] = range = dim_canon(t->z->dim, range);
        info->range[l] = size_ref(t->z, c->when.id ? dim_mul(t->z->dim, range, c->when) : range);
        info->scratch[l] = size_ref(t->z, size_when(t, scratch, c->when));
        if (!dim_is(t->z->dim, range, 1)) t->plan.step[s].single = false;
    }
}

static bool symbols_defined(const Tables *t, Dim d)
{
    const DimCode *code;
    uint32_t n = dim_code(t->z->dim, d, t->mem, &code);
    for (uint32_t i = 0; i < n; i++)
        if (code[i].op == DIMOP_SYM && !t->z->symbol[code[i].arg].defined) return false;
    return true;
}

enum { LONG_CONDITION = 200 };
static const char *const guard_words[] = {[GUARD_EQ] = "must equal",
                                          [GUARD_GE] = "must be at least",
                                          [GUARD_EQ_OR_ONE] = "must be 1 or equal",
                                          [GUARD_NE] = "must differ from"};

/* Both sides of a guard that counts only under a condition: the same, or sides for which it holds. */
static void guard_sides(Dims *d, const Guard *g, Dim *a, Dim *b)
{
    Dim same = {0};
    if (!g->when.id) return;
    if (g->kind == GUARD_EQ_OR_ONE) *a = dim_select(d, g->when, *a, dim_const(d, 1));
    else if (g->kind == GUARD_NE) same = dim_sub(d, dim_mul(d, g->when, dim_sub(d, *a, *b)), dim_not(d, g->when));
    else *a = dim_mul(d, g->when, *a), *b = dim_mul(d, g->when, *b);
    if (same.id) *a = same, *b = dim_const(d, 0);
}

/* A guard compares the sizes as they came in: with learnt equalities applied it would compare a size with itself. */
static void guard_collect(Tables *t, const Guard *g)
{
    Dims *d = t->z->dim;
    GuardRow row = {.kind = g->kind};
    Dim a = g->a, b = g->b;
    guard_sides(d, g, &a, &b);
    bool raw = symbols_defined(t, a) && symbols_defined(t, b);
    if (!raw) { /* of a value that a pass replaced: of what stands for it, if that is a size of its own */
        a = dim_canon(d, a), b = dim_canon(d, b);
        if (dim_same(a, b) || !symbols_defined(t, a) || !symbols_defined(t, b)) return;
    }
    row.a = size_ref_raw(t->z, a), row.b = size_ref_raw(t->z, b);
    const char *condition =
        arena_printf(t->mem, "%s %s %s", dim_text(d, g->a, t->mem), guard_words[g->kind], dim_text(d, g->b, t->mem));
    if (g->why && strlen(condition) > LONG_CONDITION)
        condition = guard_words[g->kind]; /* a case for every 0 and -1 of a shape */
    const char *where =
        g->loc ? arena_printf(t->mem, "%s '%s': ", g->loc->op ? g->loc->op : "", g->loc->node ? g->loc->node : "") : "";
    row.text = arena_printf(t->mem, "%s%s%s%s", where, g->why ? g->why : "", g->why ? ": " : "", condition);
    vec_push(t->mem, &t->guard, row);
}

/* Sizes of tensors that are not proven to be 0 or more. */
static void dims_guard(Tables *t, int b)
{
    Kernel *p = t->im->program;
    Dims *d = t->z->dim;
    for (int a = 0; a < buf_at(t, b)->rank; a++) {
        Dim size = dim_canon(d, dim_of_expr(d, p, buf_at(t, b)->dim[a], NULL));
        int64_t lo;
        if (dim_lower(d, size, &lo) && lo >= 0) continue;
        size = size_when(t, size, t->written[b]);
        GuardRow row = {.kind = GUARD_GE, .a = size_ref(t->z, size), .b = size_ref(t->z, dim_const(d, 0))};
        row.text = arena_printf(t->mem, "dimension %d of an intermediate result must not be negative: %s", a,
                                dim_text(d, size, t->mem));
        vec_push(t->mem, &t->guard, row);
    }
}

/* ---- phases: sizes that steps compute ---- */
static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t last_writer(const Tables *t, uint32_t buf)
{
    uint32_t last = UINT32_MAX;
    for (uint32_t s = 0; s < t->plan.steps; s++)
        for (uint32_t i = 0; i < t->plan.step[s].bufs; i++)
            if (t->plan.step[s].buf[i] == buf && t->plan.step[s].writes[i]) last = s;
    return last;
}

static bool phases_find(Tables *t)
{
    Sizes *z = t->z;
    uint32_t symbols = dim_symbols(z->dim), n = 0;
    uint32_t *step = NEW_ARRAY(t->mem, uint32_t, symbols + 2);
    uint32_t *of = NEW_ARRAY(t->mem, uint32_t, symbols + 1);
    for (uint32_t i = 0; i < symbols; i++) {
        if (!z->symbol[i].used || z->symbol[i].how.source != SOURCE_BUFFER) continue;
        uint32_t writer = last_writer(t, z->symbol[i].how.index);
        if (writer == UINT32_MAX)
            return diag_error(t->im->diag, NULL, "the size '%s' is computed by nothing", dim_symbol_name(z->dim, i));
        of[i] = writer + 1;
        step[n++] = of[i];
    }
    qsort(step, n, sizeof *step, by_number);
    uint32_t distinct = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!distinct || step[distinct - 1] != step[i]) step[distinct++] = step[i];
    z->phases = 1 + distinct;
    z->phase_step = NEW_ARRAY(t->mem, uint32_t, z->phases);
    for (uint32_t p = 0; p < distinct; p++) z->phase_step[p + 1] = step[p];
    for (uint32_t i = 0; i < symbols; i++)
        for (uint32_t p = 1; p < z->phases && of[i]; p++)
            if (z->phase_step[p] == of[i]) z->symbol[i].phase = p;
    return true;
}

/* Every step must know its sizes when it starts. */
static bool phases_check(const Tables *t)
{
    const Sizes *z = t->z;
    for (uint32_t s = 0; s < t->plan.steps; s++) {
        uint32_t need = 0;
        for (uint32_t i = 0; i < t->step[s].sizes; i++)
            if (size_phase(z, t->step[s].size[i]) > need) need = size_phase(z, t->step[s].size[i]);
        for (uint32_t i = 0; i < t->plan.step[s].bufs; i++) {
            int b = (int)t->plan.step[s].buf[i];
            if (in_arena(t, b) && size_phase(z, t->bytes[b]) > need) need = size_phase(z, t->bytes[b]);
        }
        if (z->phase_step[need] > s)
            return diag_error(t->im->diag, t->im->cut->step[s].loc, "needs a size that the model computes only later");
    }
    return true;
}

/* An output whose size only running tells lies in the arena: -(1 + o) in output_of. */
static void outputs_place(Tables *t)
{
    Image *im = t->im;
    for (uint32_t b = 1; b < im->program->buf.n; b++) {
        if (im->output_of[b] <= 0) continue;
        const Type *type = val_type(im->g, im->g->output.at[im->output_of[b] - 1]);
        bool late = false;
        for (int a = 0; a < type->rank; a++) {
            const DimCode *code;
            uint32_t n = dim_code(t->z->dim, dim_canon(t->z->dim, type->dim[a]), t->mem, &code);
            for (uint32_t i = 0; i < n; i++)
                late |= code[i].op == DIMOP_SYM && t->z->symbol[code[i].arg].how.source == SOURCE_BUFFER;
        }
        if (late) im->output_of[b] = -im->output_of[b];
    }
}

/* An output that a branch computes (what calibration watches) has no elements where the branch is not taken. */
static Dim output_dim(const Tables *t, Val v, int axis)
{
    Dims *d = t->z->dim;
    Dim when = graph_when(t->im->g, v), size = dim_canon(d, val_type(t->im->g, v)->dim[axis]);
    return when.id ? dim_mul(d, size, when) : size;
}

static void symbols_when(Tables *t)
{
    for (uint32_t i = 0; i < dim_symbols(t->z->dim); i++) {
        SizeSymbol *y = &t->z->symbol[i];
        if (!y->used || y->how.source != SOURCE_BUFFER) continue;
        Dim written = t->written[y->how.index];
        if (written.id && !dim_is(t->z->dim, written, 1)) y->when = 1 + size_ref(t->z, written);
    }
}

static bool sizes_collect(Tables *t)
{
    Image *im = t->im;
    outputs_place(t);
    for (uint32_t i = 0; i < im->g->input.n; i++)
        for (int a = 0; a < val_type(im->g, im->g->input.at[i])->rank; a++)
            size_ref_raw(t->z, val_type(im->g, im->g->input.at[i])->dim[a]);
    for (uint32_t i = 0; i < im->g->output.n; i++)
        for (int a = 0; a < val_type(im->g, im->g->output.at[i])->rank; a++)
            size_ref(t->z, output_dim(t, im->g->output.at[i], a));
    for (uint32_t s = 0; s < t->plan.steps; s++) step_collect(t, s);
    bytes_collect(t);
    for (uint32_t i = 0; i < t->used.n; i++) dims_guard(t, t->used.at[i]);
    const Guard *guard;
    uint32_t guards = dim_guards(t->z->dim, &guard);
    for (uint32_t i = 0; i < guards; i++)
        if (dim_known(guard[i].a) && dim_known(guard[i].b)) guard_collect(t, &guard[i]);
    symbols_when(t);
    const char *undefined = sizes_undefined(t->z);
    if (undefined)
        return diag_error(im->diag, NULL, "the size '%s' depends on data in a way that cannot be compiled", undefined);
    return phases_find(t) && phases_check(t);
}

/* ---- the plan ---- */
static void plan_make(Tables *t)
{
    Sizes *z = t->z;
    Plan *p = &t->plan;
    for (uint32_t i = 1; i < z->phases; i++)
        if (z->phase_step[i] < p->steps) p->barrier[z->phase_step[i]] = true;
    plan_barriers(p, t->mem);
    plan_lifetimes(p, t->mem);
    VEC(uint32_t) which = {0};
    for (uint32_t i = 0; i < t->used.n; i++) {
        int b = t->used.at[i];
        int64_t bytes = 0;
        if (!in_arena(t, b)) continue;
        if (!size_const(z, t->bytes[b], &bytes) || z->phases > 1) t->dynamic = true;
        p->buf[b].bytes = plan_bytes((uint64_t)bytes);
        vec_push(t->mem, &which, (uint32_t)b);
    }
    for (uint32_t i = 0; i < which.n; i++) /* what the caller gets from the arena stays to the end */
        if (buf_at(t, (int)which.at[i])->kind == BUF_OUT) p->buf[which.at[i]].last = p->steps;
    for (uint32_t s = 0; s < p->steps; s++)
        for (uint32_t l = 0; l < t->im->levels; l++)
            if (!size_const(z, t->step[s].scratch[l], &(int64_t){0})) t->dynamic = true;
    if (!t->dynamic) {
        plan_offsets(p, t->mem, which.at, which.n);
        return;
    }
    for (uint32_t phase = 0; phase < z->phases; phase++)
        for (uint32_t i = 0; i < which.n; i++)
            if (size_phase(z, t->bytes[which.at[i]]) == phase)
                t->block[which.at[i]] = vec_push(t->mem, &t->blocks, (int)which.at[i]);
}

/* ---- putting tables ---- */
#define PUT_ARRAY(t, array, n)           elf_put((t)->elf, ELF_RODATA, (n) ? (array) : NULL, sizeof *(array) * (n), 8)
#define POINT(t, at, T, field, to)       elf_pointer((t)->elf, ELF_RELRO, (at) + offsetof(T, field), ELF_RODATA, to)
#define POINT_RELRO(t, at, T, field, to) elf_pointer((t)->elf, ELF_RELRO, (at) + offsetof(T, field), ELF_RELRO, to)

static uint64_t put_strings(Tables *t, const char *const *s, uint32_t n, bool end)
{
    uint64_t at = elf_put(t->elf, ELF_RELRO, NULL, sizeof(char *) * (n + (end ? 1u : 0u)), 8);
    for (uint32_t i = 0; i < n; i++)
        elf_pointer(t->elf, ELF_RELRO, at + 8 * (uint64_t)i, ELF_RODATA, elf_text(t->elf, s[i]));
    return at;
}

/* One element type's numbering and one text for each free size. */
static uint64_t put_infos(Tables *t, const Val *val, const char *const *name, uint32_t n, bool raw)
{
    const Graph *g = t->im->g;
    uint64_t at = elf_put(t->elf, ELF_RELRO, NULL, sizeof(OctetTensorInfo) * n, 8);
    for (uint32_t i = 0; i < n; i++) {
        const Type *type = val_type(g, val[i]);
        OctetTensorInfo info = {.dtype = (int32_t)type->dtype, .rank = type->rank};
        uint64_t here = at + sizeof info * i;
        elf_pointer(t->elf, ELF_RELRO, here + offsetof(OctetTensorInfo, name), ELF_RODATA,
                    elf_text(t->elf, name[i] ? name[i] : ""));
        for (int a = 0; a < type->rank; a++) {
            Dim d = raw ? type->dim[a] : output_dim(t, val[i], a);
            if (dim_is_const(t->z->dim, d, &info.dim[a])) continue;
            info.dim[a] = -1;
            uint64_t text = elf_text(t->elf, dim_text(t->z->dim, d, t->mem));
            elf_pointer(t->elf, ELF_RELRO, here + offsetof(OctetTensorInfo, dim_name) + 8 * (uint64_t)a, ELF_RODATA,
                        text);
        }
        elf_poke(t->elf, ELF_RELRO, at + sizeof info * i, &info, sizeof info);
    }
    return at;
}

static uint64_t put_dims(Tables *t, const Val *val, uint32_t n, bool raw)
{
    VEC(uint32_t) dim = {0};
    for (uint32_t i = 0; i < n; i++) {
        const Type *type = val_type(t->im->g, val[i]);
        for (int a = 0; a < type->rank; a++)
            vec_push(t->mem, &dim,
                     size_at(t->z, raw ? size_ref_raw(t->z, type->dim[a]) : size_ref(t->z, output_dim(t, val[i], a))));
    }
    return PUT_ARRAY(t, dim.at, dim.n);
}

/* The place of what `key` says: the one that it has, or else `next`, which it gets. */
static uint32_t place_of(Tables *t, Map *places, const char *key, uint32_t next)
{
    uint32_t found = map_get(places, key);
    if (!found) map_put(t->mem, places, key, next + 1);
    return found ? found - 1 : next;
}

static uint32_t number_put(Tables *t, int64_t v)
{
    uint32_t at = place_of(t, &t->numbers, arena_printf(t->mem, "%lld", (long long)v), t->number.n);
    if (at == t->number.n) vec_push(t->mem, &t->number, v);
    return at;
}

static OctetSpan code_put(Tables *t, const DimCode *code, uint32_t n)
{
    enum { ARGS = 1 << 24 }; /* OctetCode.arg */
    OctetSpan span = {t->code.n, n};
    for (uint32_t c = 0; c < n; c++) {
        int32_t op = code[c].op;
        uint32_t arg = op == DIMOP_SYM                          ? t->z->symbol[code[c].arg].at
                       : op == DIMOP_CONST || op == DIMOP_SCALE ? number_put(t, code[c].arg)
                                                                : 0;
        assert(arg < ARGS);
        vec_push(t->mem, &t->code, (OctetCode){(uint32_t)op, arg & (ARGS - 1)});
    }
    return span;
}

static void put_sizes(Tables *t, OctetModel *m, uint64_t model)
{
    const Sizes *z = t->z;
    uint32_t symbols = dim_symbols(z->dim), entries = z->symbols;
    OctetSymbol *symbol = NEW_ARRAY(t->mem, OctetSymbol, z->symbols + 1);
    for (uint32_t i = 0; i < symbols; i++) {
        if (!z->symbol[i].used) continue;
        OctetSymbol *y = &symbol[z->symbol[i].at];
        *y = z->symbol[i].how;
        if (y->source == SOURCE_BUFFER) y->index = t->runtime_buf[y->index];
        if (z->symbol[i].when) y->when = size_at(z, z->symbol[i].when - 1);
    }
    for (uint32_t i = 0; i < z->entry.n; i++)
        if (size_at(z, i) >= entries) entries = size_at(z, i) + 1;
    OctetSpan *program = NEW_ARRAY(t->mem, OctetSpan, entries - z->symbols + 1);
    for (uint32_t i = 0; i < z->entry.n; i++) {
        const SizeEntry *e = &z->entry.at[i];
        if (size_at(z, i) < z->symbols) continue;
        program[size_at(z, i) - z->symbols] = code_put(t, e->code, e->n);
    }
    m->symbols = z->symbols, m->sizes = entries;
    POINT(t, model, OctetModel, symbol, PUT_ARRAY(t, symbol, z->symbols));
    POINT(t, model, OctetModel, program, PUT_ARRAY(t, program, entries - z->symbols));
}

static void put_guards(Tables *t, OctetModel *m, uint64_t model, OctetPhase *phase)
{
    uint64_t at = elf_put(t->elf, ELF_RELRO, NULL, sizeof(OctetGuard) * t->guard.n, 8);
    uint32_t n = 0;
    for (uint32_t p = 0; p < t->z->phases; p++) {
        for (uint32_t i = 0; i < t->guard.n; i++) {
            const GuardRow *r = &t->guard.at[i];
            uint32_t a = size_phase(t->z, r->a), b = size_phase(t->z, r->b);
            if ((a > b ? a : b) != p) continue;
            OctetGuard g = {.kind = (int32_t)r->kind, .a = size_at(t->z, r->a), .b = size_at(t->z, r->b)};
            uint64_t here = at + sizeof g * n++;
            elf_poke(t->elf, ELF_RELRO, here, &g, sizeof g);
            elf_pointer(t->elf, ELF_RELRO, here + offsetof(OctetGuard, text), ELF_RODATA, elf_text(t->elf, r->text));
        }
        phase[p].guards = n;
    }
    m->guards = n;
    POINT_RELRO(t, model, OctetModel, guard, at);
}

static void put_phases(Tables *t, OctetModel *m, uint64_t model, OctetPhase *phase)
{
    const Sizes *z = t->z;
    for (uint32_t p = 0; p < z->phases; p++) {
        OctetPhase *f = &phase[p];
        f->step = z->phase_step[p], f->symbols = 0, f->sizes = z->symbols, f->blocks = 0;
        for (uint32_t i = 0; i < dim_symbols(z->dim); i++) f->symbols += z->symbol[i].used && z->symbol[i].phase <= p;
        for (uint32_t i = 0; i < z->entry.n; i++)
            if (size_phase(z, i) <= p && size_at(z, i) >= f->sizes) f->sizes = size_at(z, i) + 1;
        for (uint32_t i = 0; i < t->blocks.n; i++) f->blocks += size_phase(z, t->bytes[t->blocks.at[i]]) <= p;
    }
    m->phases = z->phases;
    POINT(t, model, OctetModel, phase, PUT_ARRAY(t, phase, z->phases));
}

/* ---- weights: equal ones once ---- */
typedef struct Weight {
    const Tensor *t;
    const Layout *l;
    uint64_t at;
} Weight;

static bool weight_fill(void *ctx, FILE *f)
{
    const Weight *w = ctx;
    return constant_write(w->t, w->l, f);
}

/* Tells most weights apart without reading all of them: what looks equal is compared. */
static uint64_t weight_hash(const Tensor *t, const Layout *l)
{
    enum { WHOLE = 1 << 16, SAMPLES = 64, SAMPLE = WHOLE / SAMPLES };
    size_t n = tensor_bytes(t);
    uint64_t h = hash_bytes(t->dim, sizeof *t->dim * (size_t)t->rank, (uint64_t)t->type);
    h = hash_bytes(l->axis, sizeof(LayoutAxis) * (size_t)l->n, h);
    if (n <= WHOLE) return hash_bytes(t->data, n, h);
    for (size_t i = 0; i < SAMPLES; i++)
        h = hash_bytes((const char *)t->data + (n - SAMPLE) / (SAMPLES - 1) * i, SAMPLE, h);
    return h;
}

static void put_weights(Tables *t, uint64_t model)
{
    Map seen = {0};
    VEC(Weight *) all = {0};
    for (uint32_t i = 0; i < t->used.n; i++) {
        const Buf *b = buf_at(t, t->used.at[i]);
        if (b->kind != BUF_CONST) continue;
        const char *key = arena_printf(t->mem, "%llx", (unsigned long long)weight_hash(b->data, &b->layout));
        uint32_t found = map_get(&seen, key);
        Weight *w = found ? all.at[found - 1] : NULL;
        if (!w || !tensor_equal(w->t, b->data) || !layout_equal(w->l, &b->layout)) {
            uint64_t bytes =
                layout_elements(&b->layout, b->data->rank, b->data->dim) * (uint64_t)dtypes[b->data->type].bytes;
            w = NEW(t->mem, Weight);
            *w = (Weight){.t = b->data, .l = &b->layout};
            w->at = elf_stream(t->elf, ELF_WEIGHTS, bytes, PLAN_ALIGN, weight_fill, w);
            map_put(t->mem, &seen, key, vec_push(t->mem, &all, w) + 1);
        }
        t->weight_at[t->used.at[i]] = w->at;
    }
    elf_put(t->elf, ELF_WEIGHTS, NULL, PLAN_SLACK, 1); /* vectors may read past the end of the last one */
    elf_pointer(t->elf, ELF_RELRO, model + offsetof(OctetModel, weights), ELF_WEIGHTS, 0);
}

static OctetBuffer buffer_row(const Tables *t, int b)
{
    const Image *im = t->im;
    if (buf_at(t, b)->kind == BUF_CONST) return (OctetBuffer){SEG_WEIGHTS, 0, t->weight_at[b]};
    if (im->input_of[b]) return (OctetBuffer){SEG_INPUT, (uint32_t)im->input_of[b] - 1, 0};
    if (im->output_of[b] > 0) return (OctetBuffer){SEG_OUTPUT, (uint32_t)im->output_of[b] - 1, 0};
    return t->dynamic ? (OctetBuffer){SEG_BLOCK, t->block[b], 0} : (OctetBuffer){SEG_ARENA, 0, t->plan.buf[b].offset};
}

static void put_buffers(Tables *t, OctetModel *m, uint64_t model)
{
    OctetBuffer *row = NEW_ARRAY(t->mem, OctetBuffer, t->used.n + 1);
    for (uint32_t i = 0; i < t->used.n; i++) row[i] = buffer_row(t, t->used.at[i]);
    OctetBlock *block = NEW_ARRAY(t->mem, OctetBlock, t->blocks.n + 1);
    for (uint32_t i = 0; i < t->blocks.n; i++) {
        const PlanBuf *b = &t->plan.buf[t->blocks.at[i]];
        block[i] = (OctetBlock){b->first, b->last, size_at(t->z, t->bytes[t->blocks.at[i]]), 0};
    }
    m->buffers = t->used.n, m->blocks = t->blocks.n;
    POINT(t, model, OctetModel, buffer, PUT_ARRAY(t, row, t->used.n));
    POINT(t, model, OctetModel, block, PUT_ARRAY(t, block, t->blocks.n));
}

/* ---- steps ---- */
static void put_steps(Tables *t, OctetModel *m, uint64_t model, uint64_t api_at)
{
    Image *im = t->im;
    OctetStep *step = NEW_ARRAY(t->mem, OctetStep, t->plan.steps + 1);
    const char **name = NEW_ARRAY(t->mem, const char *, t->plan.steps + 1);
    VEC(uint32_t) arg = {0};
    for (uint32_t s = 0; s < t->plan.steps; s++) {
        const struct CutStep *c = &im->cut->step[s];
        step[s] = (OctetStep){.kernel = c->kernel, .barrier = t->plan.barrier[s]};
        step[s].buf = (OctetSpan){arg.n, c->bufs};
        for (uint32_t i = 0; i < c->bufs; i++) { /* one without memory is never looked at: any buffer will do */
            uint32_t b = t->runtime_buf[c->buf[i]];
            vec_push(t->mem, &arg, b == UINT32_MAX ? 0 : b);
        }
        step[s].size = (OctetSpan){arg.n, t->step[s].sizes};
        for (uint32_t i = 0; i < t->step[s].sizes; i++) vec_push(t->mem, &arg, size_at(t->z, t->step[s].size[i]));
        const char *op = c->loc && c->loc->op ? c->loc->op : im->cut->kernel.at[c->kernel]->name;
        name[s] = c->loc && c->loc->node && *c->loc->node ? arena_printf(t->mem, "%s '%s'", op, c->loc->node) : op;
    }
    m->steps = t->plan.steps, m->args = arg.n;
    POINT(t, model, OctetModel, step, PUT_ARRAY(t, step, m->steps));
    POINT(t, model, OctetModel, arg, PUT_ARRAY(t, arg.at, arg.n));
    uint64_t names = put_strings(t, name, m->steps, false);
    POINT_RELRO(t, model, OctetModel, step_name, names);
    POINT_RELRO(t, api_at, OctetApi, step_name, names);
}

/* What a profile says of a step is computed from the sizes the step has anyway; one that takes more is left out. */
static uint32_t program_put(Tables *t, Dim d)
{
    const DimCode *code;
    d = dim_canon(t->z->dim, d);
    uint32_t at = place_of(t, &t->programs, arena_printf(t->mem, "%u", (unsigned)d.id), t->spans.n);
    if (at < t->spans.n) return at;
    uint32_t n = dim_code(t->z->dim, d, t->mem, &code);
    bool known = dim_code_depth(code, n) <= OCTET_CODE_DEPTH;
    for (uint32_t i = 0; i < n; i++) known = known && (code[i].op != DIMOP_SYM || t->z->symbol[code[i].arg].used);
    return vec_push(t->mem, &t->spans, code_put(t, code, known ? n : 0));
}

static void put_work(Tables *t, uint64_t model)
{
    const Image *im = t->im;
    uint64_t at = elf_put(t->elf, ELF_RODATA, NULL, sizeof(OctetWorkRow) * t->plan.steps, 8);
    for (uint32_t s = 0; s < t->plan.steps; s++) {
        const struct CutStep *c = &im->cut->step[s];
        Kernel *k = im->cut->kernel.at[c->kernel];
        bool *has_memory = NEW_ARRAY(t->mem, bool, k->buf.n);
        for (uint32_t i = 0; i < c->bufs; i++) has_memory[i + 1] = param_needs_memory(t, c->kernel, i + 1);
        StepWork w = step_work(k, t->z, c, has_memory);
        uint64_t here = at + sizeof(OctetWorkRow) * s;
        OctetWorkRow row = {.what = (int32_t)(elf_text(t->elf, w.what) - here), .math = (int32_t)w.math};
        for (int i = 0; i < WORK_SIZES; i++) row.size[i] = program_put(t, w.size[i]);
        row.operations = program_put(t, w.operations), row.bytes = program_put(t, w.bytes);
        elf_poke(t->elf, ELF_RODATA, here, &row, sizeof row);
    }
    POINT(t, model, OctetModel, work, at);
    POINT(t, model, OctetModel, formula, PUT_ARRAY(t, t->spans.at, t->spans.n));
    POINT(t, model, OctetModel, code, PUT_ARRAY(t, t->code.at, t->code.n));
    POINT(t, model, OctetModel, number, PUT_ARRAY(t, t->number.at, t->number.n));
}

static uint32_t slice_put(Tables *t, OctetSlice s)
{
    const char *key = arena_printf(t->mem, "%u %u %u", (unsigned)s.range, (unsigned)s.grain, (unsigned)s.scratch);
    uint32_t at = place_of(t, &t->slices, key, t->slice.n);
    if (at == t->slice.n) vec_push(t->mem, &t->slice, s);
    return at;
}

static uint64_t put_slices(Tables *t, uint32_t level)
{
    enum { WORTH = 32768 }; /* operations: some microseconds, several times what a barrier costs */
    uint32_t *slice = NEW_ARRAY(t->mem, uint32_t, t->plan.steps + 1);
    for (uint32_t s = 0; s < t->plan.steps; s++) {
        uint32_t range = t->step[s].range[level];
        double items = (double)size_guess(t->z, t->step[s].items[level]);
        const struct CutStep *c = &t->im->cut->step[s];
        double grain = WORTH / (step_guess(t->im->cut->kernel.at[c->kernel], t->z, c) / items + 1);
        uint32_t scratch = t->step[s].scratch[level];
        int64_t bytes = -1;
        bool none = size_const(t->z, scratch, &bytes) && bytes == 0;
        slice[s] = slice_put(t, (OctetSlice){.range = size_at(t->z, range),
                                             .grain = grain < 1 ? 1 : (uint32_t)grain,
                                             .scratch = none ? UINT32_MAX : size_at(t->z, scratch)});
        if (bytes > (int64_t)t->im->scratch) t->im->scratch = (uint32_t)bytes;
    }
    return PUT_ARRAY(t, slice, t->plan.steps);
}

/* The first level that runs the same code in the same way: they share their tables. */
static uint32_t level_like(const Image *im, uint32_t l)
{
    size_t kernels = im->cut->kernel.n;
    uint32_t b = 0;
    while (b < l && (memcmp(im->level[b].symbol, im->level[l].symbol, sizeof(char *) * kernels) != 0 ||
                     memcmp(im->level[b].kernel, im->level[l].kernel, sizeof(Kernel *) * kernels) != 0))
        b++;
    return b;
}

static uint32_t function_put(Tables *t, const char *symbol)
{
    uint32_t at = place_of(t, &t->functions, symbol, t->function.n);
    if (at == t->function.n) vec_push(t->mem, &t->function, symbol);
    return at;
}

static uint64_t put_kernels(Tables *t, uint32_t level)
{
    uint32_t kernels = t->im->cut->kernel.n, *which = NEW_ARRAY(t->mem, uint32_t, kernels + 1);
    for (uint32_t k = 0; k < kernels; k++) which[k] = function_put(t, t->im->level[level].symbol[k]);
    return PUT_ARRAY(t, which, kernels);
}

static void put_functions(Tables *t, uint64_t model)
{
    enum { BYTES = sizeof(int32_t) };
    uint64_t at = elf_put(t->elf, ELF_RODATA, NULL, BYTES * (uint64_t)t->function.n, BYTES);
    for (uint32_t i = 0; i < t->function.n; i++)
        elf_distance_symbol(t->elf, ELF_RODATA, at + BYTES * (uint64_t)i, t->function.at[i]);
    POINT(t, model, OctetModel, function, at);
}

static void put_levels(Tables *t, OctetModel *m, uint64_t model, uint64_t api_at)
{
    Image *im = t->im;
    uint32_t n = im->levels, kernels = im->cut->kernel.n;
    const char **name = NEW_ARRAY(t->mem, const char *, n);
    uint64_t *needs = NEW_ARRAY(t->mem, uint64_t, n);
    uint64_t kernel_at = elf_put(t->elf, ELF_RELRO, NULL, 8 * (uint64_t)n, 8),
             slice_at = elf_put(t->elf, ELF_RELRO, NULL, 8 * (uint64_t)n, 8);
    uint64_t *at = NEW_ARRAY(t->mem, uint64_t, n), *slices = NEW_ARRAY(t->mem, uint64_t, n);
    for (uint32_t l = 0; l < n; l++) {
        uint32_t like = level_like(im, l);
        name[l] = im->level[l].target->name, needs[l] = im->level[l].target->needs;
        at[l] = like < l ? at[like] : put_kernels(t, l);
        slices[l] = like < l ? slices[like] : put_slices(t, l);
        elf_pointer(t->elf, ELF_RELRO, kernel_at + 8 * (uint64_t)l, ELF_RODATA, at[l]);
        elf_pointer(t->elf, ELF_RELRO, slice_at + 8 * (uint64_t)l, ELF_RODATA, slices[l]);
    }
    m->levels = n, m->kernels = kernels;
    POINT(t, model, OctetModel, level_needs, PUT_ARRAY(t, needs, n));
    uint64_t names = put_strings(t, name, n, true);
    POINT_RELRO(t, model, OctetModel, level_name, names);
    POINT_RELRO(t, api_at, OctetApi, levels, names);
    POINT_RELRO(t, model, OctetModel, level_kernel, kernel_at);
    POINT_RELRO(t, model, OctetModel, level_slice, slice_at);
    put_functions(t, model);
    POINT(t, model, OctetModel, slice, PUT_ARRAY(t, t->slice.at, t->slice.n));
}

/* ---- the model and its interface ---- */
static void put_tensors(Tables *t, OctetModel *m, uint64_t model, OctetApi *api, uint64_t api_at)
{
    const Graph *g = t->im->g;
    const char **name = NEW_ARRAY(t->mem, const char *, g->input.n + 1);
    uint32_t *placed = NEW_ARRAY(t->mem, uint32_t, g->output.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++) name[i] = graph_val(g, g->input.at[i])->name;
    uint64_t in = put_infos(t, g->input.at, name, g->input.n, true),
             out = put_infos(t, g->output.at, g->output_name.at, g->output.n, false);
    for (uint32_t o = 0; o < g->output.n; o++) placed[o] = UINT32_MAX;
    for (uint32_t i = 0; i < t->used.n; i++) {
        int b = t->used.at[i], o = t->im->output_of[b];
        if (o < 0) placed[-o - 1] = t->runtime_buf[b];
    }
    m->inputs = g->input.n, m->outputs = g->output.n;
    api->inputs = (int32_t)g->input.n, api->outputs = (int32_t)g->output.n;
    POINT_RELRO(t, model, OctetModel, input, in);
    POINT_RELRO(t, model, OctetModel, output, out);
    POINT_RELRO(t, api_at, OctetApi, input, in);
    POINT_RELRO(t, api_at, OctetApi, output, out);
    POINT(t, model, OctetModel, input_dim, put_dims(t, g->input.at, g->input.n, true));
    POINT(t, model, OctetModel, output_dim, put_dims(t, g->output.at, g->output.n, false));
    POINT(t, model, OctetModel, output_buffer, PUT_ARRAY(t, placed, g->output.n));
}
typedef struct Entry {
    size_t at;
    const char *symbol;
    bool pool;
} Entry;
static const Entry entries[] = {
    {offsetof(OctetApi, context_init), "octet_context_init", false},
    {offsetof(OctetApi, context_threads), "octet_context_threads", false},
    {offsetof(OctetApi, prepare), "octet_prepare", false},
    {offsetof(OctetApi, run), "octet_run", false},
    {offsetof(OctetApi, error_text), "octet_error_text", false},
    {offsetof(OctetApi, pool_bytes), "octet_pool_bytes", true},
    {offsetof(OctetApi, pool_init), "octet_pool_init", true},
    {offsetof(OctetApi, pool_finish), "octet_pool_finish", true},
    {offsetof(OctetApi, cpu_level), "octet_cpu_level", false},
    {offsetof(OctetApi, context_profile), "octet_context_profile", false},
    {offsetof(OctetApi, context_level), "octet_context_level", false},
    {offsetof(OctetApi, step_work), "octet_step_work", false},
};

static void put_model(Tables *t)
{
    Image *im = t->im;
    OctetModel m = {0};
    OctetApi api = {.version = OCTET_API_VERSION};
    uint64_t model = elf_put(t->elf, ELF_RELRO, NULL, sizeof m, 64),
             api_at = elf_put(t->elf, ELF_RELRO, NULL, sizeof api, 64);
    OctetPhase *phase = NEW_ARRAY(t->mem, OctetPhase, t->z->phases);
    POINT(t, model, OctetModel, name, elf_text(t->elf, im->name));
    put_weights(t, model);
    put_tensors(t, &m, model, &api, api_at);
    put_sizes(t, &m, model);
    put_guards(t, &m, model, phase);
    put_phases(t, &m, model, phase);
    put_buffers(t, &m, model);
    put_steps(t, &m, model, api_at);
    put_work(t, model);
    put_levels(t, &m, model, api_at);
    im->arena_bytes = m.arena_bytes = t->dynamic ? UINT64_MAX : t->plan.arena;
    api.arena_bytes = t->dynamic ? SIZE_MAX : (size_t)t->plan.arena + im->scratch;
    api.context_bytes = octet_context_size(m.sizes, m.args, m.blocks);
    api.steps = (int32_t)m.steps;
    elf_poke(t->elf, ELF_RELRO, model, &m, sizeof m);
    elf_poke(t->elf, ELF_RELRO, api_at, &api, sizeof api);
    POINT_RELRO(t, api_at, OctetApi, model, model);
    for (size_t i = 0; i < COUNT_OF(entries); i++)
        if (!entries[i].pool || im->options->max_threads != 1)
            elf_pointer_symbol(t->elf, ELF_RELRO, api_at + entries[i].at, entries[i].symbol);
    elf_define(t->elf, arena_printf(t->mem, "%s_octet_api", im->name), ELF_RELRO, api_at, sizeof api, true);
    elf_define(t->elf, "octet_this_api", ELF_RELRO, api_at, sizeof api, false);
}

static uint32_t *filled(Arena *mem, uint32_t n)
{
    uint32_t *p = NEW_ARRAY(mem, uint32_t, n);
    memset(p, 0xff, sizeof *p * n);
    return p;
}

bool tables_build(Image *im, Elf *e)
{
    uint32_t bufs = im->program->buf.n, steps = im->cut->steps;
    Tables t = {.im = im, .mem = im->mem, .elf = e, .z = &im->sizes};
    t.plan = (Plan){.step = NEW_ARRAY(im->mem, PlanStep, steps + 1),
                    .steps = steps,
                    .buf = NEW_ARRAY(im->mem, PlanBuf, bufs),
                    .bufs = bufs,
                    .barrier = NEW_ARRAY(im->mem, bool, steps + 1)};
    t.step = NEW_ARRAY(im->mem, StepInfo, steps + 1);
    t.runtime_buf = filled(im->mem, bufs);
    t.bytes = NEW_ARRAY(im->mem, uint32_t, bufs), t.written = NEW_ARRAY(im->mem, Dim, bufs), t.block = filled(im->mem, bufs),
    t.weight_at = NEW_ARRAY(im->mem, uint64_t, bufs);
    if (!sizes_collect(&t)) return false;
    plan_make(&t);
    sizes_number(&im->sizes);
    put_model(&t);
    return true;
}
