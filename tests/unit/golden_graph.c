/* Golden passes: tests/golden/passes/NAME.ir holds a graph, the pass that reads it and the graph it makes of it:
 *
 *     # what the file shows
 *     pass integer
 *     range x -1 1          (for quantize: the range of a tensor, perhaps with rms, row_peak, tensor_db and row_db; any number of them)
 *     wide x 01             (behind its range: which of the products that read it multiply 16 bits)
 *     graph ...
 *     --------
 *     graph ...
 *
 * Both graphs are also run by the interpreter: a pass may round differently, never compute something else. Types may be left out of the
 * graph above the line. BLESS=1 writes what is below it. */
#include "frontend/interpret.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include "passes/rewrite.h"
#include "tests/unit/worlds.h"
#include <dirent.h>
#include <stdlib.h>

#define FOLDER "tests/golden/passes/"
static const char line[] = "--------\n";

typedef struct Golden {
    World w;
    Quantization q;
    const Pass *pass;
    const char *head, *want; /* of the file: all above the line; below it */
    Graph *before, *after;
} Golden;

static const Pass *pass_named(const char *name)
{
    for (uint32_t i = 0; pass_at(i); i++)
        if (!strcmp(pass_at(i)->name, name)) return pass_at(i);
    cr_assert_fail("no pass '%s'", name);
    return NULL;
}

static char *file_text(Arena *mem, const char *path)
{
    enum { MOST = 1 << 20 };
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s: run from the source folder", path);
    char *text = arena_alloc(mem, MOST);
    size_t n = fread(text, 1, MOST - 1, f);
    cr_assert(n < MOST - 1);
    fclose(f);
    return text;
}

static const char *graph_text(Arena *mem, const Graph *g)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    graph_print(g, f), fclose(f);
    const char *copy = arena_text(mem, text, n);
    free(text);
    return copy;
}

static void read_wide(Quantization *q, const char *name, const char *wide)
{
    const Range *is = range_find(q, name);
    cr_assert(is, "%s has no range", name);
    Range *r = range_set(q, name, is->lo, is->hi);
    bool *w = NEW_ARRAY(q->mem, bool, strlen(wide) + 1);
    for (r->readers = 0; wide[r->readers]; r->readers++) w[r->readers] = wide[r->readers] == '1';
    r->wide = w;
}

static void read_golden(Golden *x, const char *path)
{
    world_open(&x->w);
    Arena *mem = &x->w.mem;
    x->q.mem = mem;
    char *text = file_text(mem, path), *cut = strstr(text, line), *at = text;
    if (cut) *cut = 0;
    x->head = arena_text(mem, text, strlen(text)), x->want = cut ? cut + strlen(line) : "";
    for (char *next; strncmp(at, "graph", 5) != 0; at = next + 1) {
        char name[100], wide[100];
        double lo, hi, rms = 0, peak = 0, tensor = 0, row = 0;
        next = strchr(at, '\n');
        cr_assert(next, "%s: no graph", path);
        *next = 0;
        if (sscanf(at, "pass %99s", name) == 1) x->pass = pass_named(name);
        else if (sscanf(at, "range %99s %lf %lf %lf %lf %lf %lf", name, &lo, &hi, &rms, &peak, &tensor, &row) >= 3) {
            Range *r = range_set(&x->q, name, lo, hi);
            r->rms = rms, r->row_peak = peak, r->tensor_db = tensor, r->row_db = row;
        } else if (sscanf(at, "wide %99s %99s", name, wide) == 2) read_wide(&x->q, name, wide);
        else cr_assert(*at == '#', "%s: '%s'", path, at);
    }
    x->before = graph_parse(&x->w.module, mem, at);
    if (!x->before) diag_print(&x->w.diag, stderr);
    cr_assert(x->before && x->pass, "%s", path);
}

static PassCtx context(Golden *x)
{
    bool quantizes = x->pass && !strcmp(x->pass->name, "quantize");
    return (PassCtx){
        .module = &x->w.module, .mem = &x->w.mem, .scratch = &x->w.scratch, .quant = quantizes ? &x->q : NULL, .halves = true};
}

static void run_golden(Golden *x, const char *path)
{
    const char *why = NULL;
    read_golden(x, path);
    PassCtx ctx = context(x);
    x->after = x->pass->run(x->before, &ctx);
    cr_assert(graph_verify(x->after, &why), "%s: %s", path, why);
}

/* Sizes that are free become 3. */
static const Tensor **inputs_of(Golden *x)
{
    const Graph *g = x->before;
    const Tensor **in = NEW_ARRAY(&x->w.mem, const Tensor *, g->input.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Type *t = val_type(g, g->input.at[i]);
        int64_t dim[MAX_RANK] = {0};
        for (int a = 0; a < t->rank; a++)
            if (!dim_is_const(g->module->dim, t->dim[a], &dim[a])) dim[a] = 3;
        in[i] = tensor_random(&x->w.mem, t->dtype, t->rank, dim, i + 1);
    }
    return in;
}

static const Tensor **run_graph(Golden *x, Graph *g, const Tensor *const *in)
{
    const Tensor **out = NEW_ARRAY(&x->w.mem, const Tensor *, g->output.n + 1);
    PassCtx ctx = context(x);
    int *buf_of;
    Graph *flat = pass_expand(g, &ctx);
    Kernel *k = lower_graph(flat, &x->w.mem, &buf_of);
    if (!k || !interpret(flat, k, &x->w.mem, in, out, &x->w.diag)) diag_print(&x->w.diag, stderr);
    cr_assert(k && !x->w.diag.errors);
    return out;
}

/* How far apart two forms of the same float arithmetic may be: rounding; where values become codes, a few steps of 8-bit values. */
static void compare_runs(Golden *x, const char *path)
{
    const Tensor **in = inputs_of(x), **a = run_graph(x, x->before, in), **b = run_graph(x, x->after, in);
    bool codes = !strcmp(x->pass->name, "quantize") || !strcmp(x->pass->name, "blocks");
    double room = codes ? 0.1 : 2e-5;
    for (uint32_t o = 0; o < x->before->output.n; o++) {
        cr_assert(a[o]->type == b[o]->type && tensor_count(a[o]) == tensor_count(b[o]), "%s: output %u", path, o);
        for (int64_t i = 0; i < tensor_count(a[o]); i++) {
            double p = dtype_load(a[o]->type, a[o]->data, i), r = dtype_load(b[o]->type, b[o]->data, i);
            double most = dtype_is_float(a[o]->type) ? room * fmax(1, fabs(p)) : 1;
            cr_assert(fabs(p - r) <= most || (isnan(p) && isnan(r)), "%s: output %u [%d] is %g, was %g", path, o, (int)i, r, p);
        }
    }
}

static void check_file(const char *path)
{
    Golden x = {0};
    run_golden(&x, path);
    const char *now = graph_text(&x.w.mem, x.after);
    compare_runs(&x, path);
    if (getenv("BLESS")) {
        FILE *f = fopen(path, "w");
        fprintf(f, "%s%s%s", x.head, line, now);
        fclose(f);
    } else {
        cr_assert_str_eq(now, x.want, "%s (BLESS=1 accepts)", path);
    }
    world_close(&x.w);
}

/* Calls visit with the path of every golden whose name begins with prefix; yields how many. */
static int each_golden(const char *prefix, void (*visit)(const char *path))
{
    DIR *d = opendir(FOLDER);
    int files = 0;
    cr_assert(d, "run from the source folder");
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        size_t n = strlen(e->d_name);
        if (n < 4 || strcmp(e->d_name + n - 3, ".ir") != 0 || strncmp(e->d_name, prefix, strlen(prefix)) != 0) continue;
        snprintf(path, sizeof path, FOLDER "%s", e->d_name);
        visit(path), files++;
    }
    closedir(d);
    return files;
}

Test(golden_graph, files) { cr_assert_gt(each_golden("", check_file), 0); }

/* ---- every rule of a table fires in some golden ---- */
static const struct Table {
    const char *pass;
    const Rule *rules;
} tables[] = {{"simplify", rules_simplify}, {"scale", rules_scale}, {"integer", rules_saturation}};
static const Rule *counted;
static uint32_t fired[256];

static void count_rules(const char *path)
{
    Golden x = {0};
    PassCtx ctx = context(&x);
    read_golden(&x, path);
    rewrite(x.before, &ctx, counted, fired);
    world_close(&x.w);
}

Test(golden_graph, every_rule_fires)
{
    for (const struct Table *t = tables; t < tables + COUNT_OF(tables); t++) {
        memset(fired, 0, sizeof fired);
        counted = t->rules;
        each_golden(t->pass, count_rules);
        for (uint32_t r = 0; t->rules[r].name; r++)
            cr_expect(fired[r], "rule '%s' fires in no tests/golden/passes/%s*.ir", t->rules[r].name, t->pass);
    }
}

Test(golden_graph, rules_are_well_formed)
{
    for (const struct Table *t = tables; t < tables + COUNT_OF(tables); t++) {
        rules_check(t->rules);
        for (const Rule *r = t->rules; r->name; r++)
            for (const Rule *q = t->rules; q < r; q++) cr_expect(strcmp(r->name, q->name) != 0, "two rules named %s", r->name);
    }
}

/* A simplified graph is simple: these passes change nothing when run again. */
static void check_again(const char *path)
{
    Golden x = {0};
    PassCtx ctx = context(&x);
    run_golden(&x, path);
    Graph *twice = x.pass->run(x.after, &ctx);
    cr_expect_str_eq(graph_text(&x.w.mem, twice), graph_text(&x.w.mem, x.after), "%s: a second run changes the graph", path);
    world_close(&x.w);
}

Test(golden_graph, passes_are_done_after_one_run)
{
    cr_assert(each_golden("simplify", check_again) && each_golden("integer", check_again) && each_golden("scale", check_again));
}
