/* codegen.c - the whole of code generation in order: lower, cluster, lay out, cut, schedule for every level, compile,
 * plan, link.
 *
 * A level of the target gets its own copy of a kernel only where that pays: kernels without an integer contraction
 * are compiled once for each register file (SSE, AVX2, AVX-512), and the levels that add dot products point at them.
 * So are those without bf16 values for the levels that add its instructions. Integer products that together take hardly
 * any time are compiled for few levels, and the others point at those (Target.spare); where there are several levels, all
 * such kernels prefer little code, and all kernels of the levels that few machines need: those that differ in sizes alone are
 * one there (general.c). */
#include "codegen/analyse.h"
#include "codegen/cache.h"
#include "codegen/image.h"
#include "ir/base/stage.h"
#include "ir/lower.h"
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <unistd.h>

/* ---- which levels ---- */
typedef struct Alias {
    const char *name, *level;
} Alias;
static const Alias aliases[] = {{"x86-64", "portable"}, {"x86-64-v3", "avx2"}, {"x86-64-v4", "avx512"}};

static void level_add(Image *im, const Target *t) { im->level[im->levels++] = (Level){.target = t}; }

static uint32_t target_count(void)
{
    uint32_t n = 0;
    while (target_at(n)) n++;
    return n;
}

static bool levels_choose(Image *im)
{
    const char *name = im->options->target ? im->options->target : "portable";
    bool all = !strcmp(name, "portable"), native = !strcmp(name, "native");
    uint64_t have = native ? target_host_features() : 0;
    const Target *one = NULL;
    im->level = NEW_ARRAY(im->mem, Level, target_count());
    if (!strcmp(name, "cuda") && im->options->emit && !strcmp(im->options->emit, "cuda")) return true;
    for (uint32_t i = 0; target_at(i); i++) {
        const Target *t = target_at(i);
        if (t->gpu) continue;
        if (all) level_add(im, t);
        if ((native && !(t->needs & ~have)) || (!all && !strcmp(t->name, name))) one = t;
    }
    for (size_t i = 0; i < COUNT_OF(aliases); i++)
        if (!strcmp(aliases[i].name, name)) one = target_find(aliases[i].level);
    if (one) level_add(im, one);
    if (im->levels) return true;
    return diag_error(im->diag, NULL,
                      "the target '%s' is unknown or not built yet: portable, native, x86-64, x86-64-v3, x86-64-v4, "
                      "avx2, avxvnni, avx512, avx512vnni, avx512bf16, amx",
                      name);
}

SomeLevels target_bf16_tiles(const char *target)
{
    Arena mem = {0};
    Diag quiet = {.mem = &mem, .subject = ""}; /* an unknown target is reported when it is compiled for */
    CodegenOptions o = {.target = target};
    Image im = {.mem = &mem, .diag = &quiet, .options = &o};
    uint32_t n = 0, levels = levels_choose(&im) ? im.levels : 0;
    for (uint32_t l = 0; l < levels; l++) n += im.level[l].target->pair == PAIR_AMX;
    arena_drop(&mem);
    return !n ? NO_LEVEL : n < levels ? SOME_LEVELS : ALL_LEVELS;
}

/* ---- buffers of inputs and outputs, and sizes that the model computes ---- */
static void ends_find(Image *im)
{
    Kernel *p = im->program;
    uint32_t in = 0, out = 0;
    im->input_of = NEW_ARRAY(im->mem, int, p->buf.n), im->output_of = NEW_ARRAY(im->mem, int, p->buf.n);
    im->value_of = NEW_ARRAY(im->mem, Val, p->buf.n);
    for (uint32_t b = 1; b < p->buf.n; b++) {
        if (p->buf.at[b].kind == BUF_IN) im->input_of[b] = (int)++in;
        if (p->buf.at[b].kind == BUF_OUT) im->value_of[b] = im->g->output.at[out], im->output_of[b] = (int)++out;
    }
    assert(in == im->g->input.n && out == im->g->output.n &&
           "lower_graph: a buffer for every input and output, in order");
}

static void symbols_note(const Dims *d, Dim size, Arena *mem, bool *used)
{
    const DimCode *code;
    uint32_t length = dim_code(d, size, mem, &code);
    for (uint32_t i = 0; i < length; i++)
        if (code[i].op == DIMOP_SYM) used[code[i].arg] = true;
}

/* A symbol that stands for an element of a computed value is read from that value's buffer, which therefore must
 * exist: it is treated like an output. Only values whose symbols some size of the program needs, or a guard: what was learnt from one
 * (the size is 4) is taken for granted everywhere else. */
static void data_sizes_find(Image *im)
{
    const Graph *g = im->g;
    Kernel *p = im->program;
    const Guard *guard;
    bool *used = NEW_ARRAY(im->mem, bool, dim_symbols(p->dim) + 1);
    for (Expr e = 1; e <= expr_count(p); e++) {
        const ExprNode *n = expr_node(p, e);
        if (n->kind == E_SYM && dim_has_data(p->dim, (Dim){n->id}))
            symbols_note(p->dim, dim_canon(p->dim, (Dim){n->id}), im->mem, used);
    }
    for (uint32_t i = 0, n = dim_guards(p->dim, &guard); i < n; i++)
        symbols_note(p->dim, guard[i].a, im->mem, used), symbols_note(p->dim, guard[i].b, im->mem, used);
    for (uint32_t v = 1; v < g->val.n; v++) {
        const Value *val = &g->val.at[v];
        int b = im->buf_of[v];
        for (uint32_t k = 0; b && val->elem && k < val->elems; k++) {
            uint32_t i;
            if (!dim_known(val->elem[k]) || !dim_is_symbol(p->dim, val->elem[k], &i) || !used[i] ||
                im->sizes.symbol[i].defined)
                continue;
            if (p->buf.at[b].kind == BUF_IN || p->buf.at[b].kind == BUF_CONST) continue;
            p->buf.at[b].kind = BUF_OUT;
            im->value_of[b] = (Val){v};
            im->sizes.symbol[i] =
                (SizeSymbol){.how = {SOURCE_BUFFER, (uint32_t)b, k, (int32_t)val->type.dtype, UINT32_MAX},
                             .defined = true};
        }
    }
}

/* A kernel that breaks an invariant is our bug: found here, at the step that made it, in builds with assertions. */
static void kernel_check(Kernel *k, const char *step)
{
#ifndef NDEBUG
    const char *why = NULL;
    if (kernel_verify(k, &why)) return;
    fprintf(stderr, "octet: internal error: after %s: %s\n", step, why);
    kernel_print(k, stderr);
    assert(!"a step made an invalid kernel");
#else
    (void)k, (void)step;
#endif
}

/* ---- schedules and code for every level ---- */
/* A copy to schedule: what schedules change is its own, formulas are shared. */
static Kernel *kernel_copy(Arena *mem, const Kernel *k)
{
    Kernel *c = arena_copy(mem, k, sizeof *k);
    c->buf.at = arena_copy(mem, k->buf.at, sizeof *k->buf.at * k->buf.n), c->buf.cap = k->buf.n;
    c->axis.at = arena_copy(mem, k->axis.at, sizeof *k->axis.at * k->axis.n), c->axis.cap = k->axis.n;
    c->stage.at = arena_copy(mem, k->stage.at, sizeof *k->stage.at * k->stage.n), c->stage.cap = k->stage.n;
    return c;
}

/* Does it sum integers, or codes in blocks, which are summed as integers? */
static bool has_dot(Kernel *k)
{
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        Contraction r;
        if (s->reduces && s->how == P_add && expr_node(k, s->value)->type == DT_i32) return true;
        if (contraction_of(k, s, &r) && r.acc == DT_i32) return true;
    }
    return false;
}

static bool has_words(Kernel *k)
{
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (summed_word(k, &k->stage.at[i])) return true;
    return false;
}

static bool has_bf16(const Kernel *k)
{
    for (uint32_t b = 1; b < k->buf.n; b++)
        if (k->buf.at[b].type == DT_bf16) return true;
    return false;
}

/* The level whose code level l runs for a kernel: the first of the same register file that makes what the kernel needs in
 * the same way, or one that does where it is hardly seen. */
static uint32_t base_level(const Image *im, uint32_t l, uint32_t kernel)
{
    const Target *mine = im->level[l].target;
    Kernel *k = im->cut->kernel.at[kernel];
    for (uint32_t b = 0; b < l; b++) {
        const Target *t = im->level[b].target;
        bool dots = t->dot == mine->dot || !has_dot(k), pairs = t->pair == mine->pair || !has_bf16(k);
        bool spare = im->rare[kernel] && has_dot(k) && mine->spare && !strcmp(t->name, mine->spare);
        if (spare || (!strcmp(t->cpu, mine->cpu) && dots && pairs)) return b;
    }
    return l;
}

typedef VEC(LlvmJob) Jobs;

/* "Conv_layer1_conv2": what profilers show of a kernel is the operator and the node of the first step that calls it: of a long name the end, where it
 * differs from others and mostly says the operator too. */
static const char *kernel_label(const Image *im, uint32_t k)
{
    enum { MOST = 24 };
    uint32_t s = 0;
    while (im->cut->step[s].kernel != k) s++;
    const Loc *loc = im->cut->step[s].loc;
    const char *op = loc && loc->op ? loc->op : "", *node = loc && loc->node ? loc->node : "";
    if (strlen(node) > MOST) node += strlen(node) - MOST;
    char *label = strstr(node, op) ? arena_printf(im->mem, "%s", node) : arena_printf(im->mem, "%s_%s", op, node);
    for (char *c = label; *c; c++)
        if (!isalnum((unsigned char)*c)) *c = '_';
    return label;
}

/* Is it one that few machines run? */
static bool is_old(const Image *im, uint32_t l, uint32_t k)
{
    OldLevel old = im->level[l].target->old;
    Kernel *kernel = im->cut->kernel.at[k];
    bool dots = old >= OLD_DOTS && has_dot(kernel), words = old >= OLD_WORDS && has_words(kernel);
    return im->levels > 1 && (old == OLD_ALL || dots || words);
}

/* Is little code wanted of this kernel, more than time? */
static bool is_small(const Image *im, uint32_t l, uint32_t k) { return is_old(im, l, k) || (im->levels > 1 && im->rare[k]); }

/* The first kernel that runs the same general code on this level; UINT32_MAX: nothing else does. What takes little time on other levels is
 * not worth that: a map whose sizes are not known may take four times as long. */
static uint32_t first_kin(const Image *im, uint32_t l, uint32_t kernel)
{
    uint32_t first = UINT32_MAX, n = 0;
    Kernel **general = im->cut->general;
    if (!general || !general[kernel] || !is_old(im, l, kernel)) return UINT32_MAX;
    for (uint32_t k = 0; k < im->cut->kernel.n; k++) {
        if (general[k] != general[kernel] || !is_old(im, l, k) || base_level(im, l, k) != l) continue;
        if (!n++) first = k;
    }
    return n > 1 ? first : UINT32_MAX;
}

static bool kernel_prepare(Image *im, uint32_t l, uint32_t k, Jobs *jobs)
{
    Level *level = &im->level[l];
    uint32_t base = base_level(im, l, k), kin = base == l ? first_kin(im, l, k) : UINT32_MAX;
    if (base != l) {
        level->kernel[k] = im->level[base].kernel[k], level->symbol[k] = im->level[base].symbol[k];
        return true;
    }
    if (kin < k) {
        level->kernel[k] = level->kernel[kin], level->symbol[k] = level->symbol[kin];
        return true;
    }
    bool small = is_small(im, l, k);
    Kernel *tuned = kernel_copy(im->mem, kin == k ? im->cut->general[k] : im->cut->kernel.at[k]);
    const char *error = "";
    tune(tuned, level->target, small);
    level->kernel[k] = schedule_apply(tuned, &error);
    assert(level->kernel[k] && "a tuned schedule fits its kernel");
    kernel_check(level->kernel[k], "schedule");
    level->symbol[k] =
        arena_printf(im->mem, "%s_k%u_%s_%s", im->name, (unsigned)k, kernel_label(im, k), level->target->name);
    vec_push(im->mem, jobs, (LlvmJob){level->kernel[k], level->target, level->symbol[k], small});
    return true;
}

static int job_count(const CodegenOptions *o)
{
    cpu_set_t set;
    if (o->jobs > 0) return o->jobs;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void progress(const Image *im, const char *what)
{
    if (!im->options->quiet && isatty(2)) fprintf(stderr, "\r\033[K%s", what);
}

/* ---- --emit ---- */
static bool emit_text(Image *im, const Jobs *jobs, FILE *f)
{
    const char *emit = im->options->emit;
    bool assembly = !strcmp(emit, "asm");
    for (uint32_t i = 0; i < jobs->n; i++) {
        const char *text;
        if (!strcmp(emit, "kernel")) {
            fprintf(f, "# %s\n", jobs->at[i].symbol);
            kernel_print(jobs->at[i].kernel, f);
            loops_print(jobs->at[i].kernel, jobs->at[i].kernel->loops, 0, f);
            continue;
        }
        if (!llvm_text(im->mem, im->diag, &jobs->at[i], assembly, &text)) return false;
        fputs(text, f);
    }
    return true;
}

static bool emit_cuda(Image *im, FILE *f)
{
    const Target *cuda = target_find("cuda");
    for (uint32_t k = 0; k < im->cut->kernel.n; k++) {
        Kernel *tuned = kernel_copy(im->mem, im->cut->kernel.at[k]);
        const char *error = "";
        tune(tuned, cuda, false);
        Kernel *scheduled = schedule_apply(tuned, &error);
        assert(scheduled && "a tuned schedule fits its kernel");
        kernel_check(scheduled, "schedule");
        cuda_emit(scheduled, arena_printf(im->mem, "%s_k%u", im->name, (unsigned)k), f);
    }
    return true;
}

static void symbol_replace(Image *im, const char *from, const char *to)
{
    for (uint32_t l = 0; l < im->levels; l++)
        for (uint32_t k = 0; k < im->cut->kernel.n; k++)
            if (im->level[l].symbol[k] == from) im->level[l].symbol[k] = to;
}

/* One object for all jobs that became the same code. */
static void objects_share(Image *im, const Jobs *jobs)
{
    const char **symbol = NEW_ARRAY(im->mem, const char *, jobs->n + 1);
    for (uint32_t i = 0; i < jobs->n; i++) {
        uint32_t same = 0;
        while (same < im->objects && im->object[same].at != im->object[i].at) same++;
        if (same < im->objects) symbol_replace(im, jobs->at[i].symbol, symbol[same]);
        else symbol[im->objects] = jobs->at[i].symbol, im->object[im->objects++] = im->object[i];
    }
}

/* ---- all of it ---- */
/* What leaves the program, an output or a size that the model computes, is wanted where the node that makes it counts. */
static void demand_find(Image *im, uint32_t bufs)
{
    Kernel *p = im->program;
    Dim *wanted = NEW_ARRAY(im->mem, Dim, p->buf.n), when;
    for (uint32_t b = 1; b < bufs; b++) {
        if (!im->value_of[b].id) continue;
        when = graph_when(im->g, im->value_of[b]);
        wanted[b] = when.id ? dim_canon(p->dim, when) : dim_const(p->dim, 1);
    }
    program_demand(p, wanted);
}

static bool image_lower(Image *im)
{
    im->program = lower_graph(im->g, im->mem, &im->buf_of);
    if (!im->program) return false;
    sizes_new(&im->sizes, im->mem, im->program->dim);
    sizes_inputs(&im->sizes, im->g);
    ends_find(im);
    data_sizes_find(im);
    uint32_t before = im->program->buf.n;
    kernel_check(im->program, "lowering");
    program_alike(im->program);
    im->program = program_cluster(im->program);
    kernel_check(im->program, "clustering");
    const Storage *store = &im->options->store;
    bool stored = store->type || store->planes;
    if (!store->planes) program_fork(im->program);
    kernel_check(im->program, "forking");
    program_layout(im->program, stored ? store : NULL);
    kernel_check(im->program, "layout");
    program_faint(im->program);
    bool cuda =
        im->options->emit && !strcmp(im->options->emit, "cuda"); /* there, stages that share loops are one thread */
    program_widen(im->program, !cuda);
    kernel_check(im->program, "widening");
    if (!cuda) program_join(im->program);
    kernel_check(im->program, "joining");
    int *in = NEW_ARRAY(im->mem, int, im->program->buf.n), *out = NEW_ARRAY(im->mem, int, im->program->buf.n);
    memcpy(in, im->input_of, sizeof *in * before), memcpy(out, im->output_of, sizeof *out * before);
    im->input_of = in, im->output_of = out;
    demand_find(im, before);
    im->cut = program_cut(im->program, im->mem);
    for (uint32_t k = 0; k < im->cut->kernel.n; k++) kernel_check(im->cut->kernel.at[k], "cutting");
    return true;
}

/* Integer products take a quarter of the time of others. */
static void rare_find(Image *im)
{
    double *time = NEW_ARRAY(im->mem, double, im->cut->kernel.n + 1);
    for (uint32_t s = 0; s < im->cut->steps; s++) {
        uint32_t k = im->cut->step[s].kernel;
        double guess = step_guess(im->cut->kernel.at[k], &im->sizes, &im->cut->step[s]);
        time[k] += has_dot(im->cut->kernel.at[k]) ? guess / 4 : guess;
    }
    im->rare = hardly_seen(time, im->cut->kernel.n, im->mem);
}

static bool image_schedule(Image *im, Jobs *jobs)
{
    uint32_t kernels = im->cut->kernel.n;
    rare_find(im);
    if (im->levels > 1) cut_generalize(im->cut, im->program->dim, im->mem);
    for (uint32_t k = 0; k < kernels && im->cut->general; k++)
        if (im->cut->general[k]) kernel_check(im->cut->general[k], "generalising");
    for (uint32_t l = 0; l < im->levels; l++) {
        im->level[l].kernel = NEW_ARRAY(im->mem, Kernel *, kernels + 1),
        im->level[l].symbol = NEW_ARRAY(im->mem, const char *, kernels + 1);
        for (uint32_t k = 0; k < kernels; k++)
            if (!kernel_prepare(im, l, k, jobs)) return false;
    }
    return true;
}

static bool weights_put(Image *im, Elf *tables)
{
    const char *path = im->options->weights;
    FILE *f = path ? fopen(path, "wb") : NULL;
    bool ok = !path || (f && elf_move(tables, ELF_WEIGHTS, f));
    if (f && fclose(f) != 0) ok = false;
    return ok || diag_error(im->diag, NULL, "cannot write %s: %s", path, strerror(errno));
}

static bool image_make(Image *im)
{
    const CodegenOptions *o = im->options;
    Jobs jobs = {0};
    Stage stage = {.text = o->times};
    progress(im, "lowering"), stage_begin(&stage, "lower");
    if (!levels_choose(im) || !image_lower(im)) return false;
    if (o->emit && !strcmp(o->emit, "cuda")) return emit_cuda(im, o->text);
    progress(im, "scheduling"), stage_begin(&stage, "schedule");
    if (!image_schedule(im, &jobs)) return false;
    if (o->emit) return emit_text(im, &jobs, o->text);
    progress(im, arena_printf(im->mem, "compiling %u kernels", (unsigned)jobs.n)), stage_begin(&stage, "kernels");
    if (o->cache && !cache_open(o->cache, im->diag)) return false;
    if (!llvm_compile(im->mem, im->diag, jobs.at, jobs.n, job_count(o), o->cache, &im->object)) return false;
    if (o->cache) cache_trim(o->cache);
    objects_share(im, &jobs);
    stage_begin(&stage, "tables");
    Elf *tables = elf_new(im->mem, im->level[0].target->arch);
    if (!tables_build(im, tables)) return false;
    progress(im, "linking"), stage_begin(&stage, "link");
    bool ok = weights_put(im, tables) && artefact_link(im, tables);
    stage_begin(&stage, NULL);
    return ok;
}

/* The prefix of every symbol: the output's name as a C identifier, so that models compiled to different files link
 * together. */
static const char *symbol_prefix(Arena *mem, const Graph *g, const char *out)
{
    if (!out) return g->module->name;
    const char *slash = strrchr(out, '/'), *base = slash ? slash + 1 : out;
    size_t n = strcspn(base, ".");
    char *name = arena_printf(mem, "%s%.*s", isdigit((unsigned char)*base) || !n ? "_" : "", (int)n, base);
    for (char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c)) *c = '_';
    return name;
}

bool codegen_graph(const Graph *g, const CodegenOptions *o, Diag *diag)
{
    Arena mem = {0};
    Image im = {.mem = &mem, .diag = diag, .g = g, .options = o};
    im.name = symbol_prefix(&mem, g, o->out);
    assert(!o->emit || o->text);
    bool ok = image_make(&im);
    progress(&im, "");
    arena_drop(&mem);
    memory_trim(); /* a compilation has held much, in small pieces */
    return ok;
}
