/* compile.c - `octet compile`: the one place that sees the front end, the passes and code generation.
 *
 * Quantization cuts the pipeline in two: the graph after "rotate" is run on samples (calibrate.c), then the passes from
 * "quantize" on use the ranges found. */
#include "frontend/compile.h"
#include "codegen/artefact.h"
#include "frontend/budget.h"
#include "frontend/calibrate.h"
#include "frontend/cli.h"
#include "frontend/export.h"
#include "frontend/judge.h"
#include "frontend/layers.h"
#include "frontend/policy.h"
#include "frontend/refine.h"
#include "frontend/precision.h"
#include "frontend/report.h"
#include "frontend/smooth.h"
#include "frontend/spare.h"
#include "frontend/wide.h"
#include "ir/base/stage.h"
#include "octet_compiler.h"
#include "passes/balance.h"
#include "passes/integer.h"
#include "passes/passes.h"
#include "passes/winograd.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char before_rewritings[] = "simplify", before_quantize[] = "rotate", from_quantize[] = "quantize";
static const char before_integer[] = "codes";
static const char before_filter[] = "scale", from_filter[] = "winograd";

/* ---- options ---- */

static bool parse_dim(const char *text, Arena *mem, DimValue *out)
{
    const char *equals = strrchr(text, '=');
    char *end;
    if (!equals || equals == text || equals[1] < '0' || equals[1] > '9' || strlen(equals) > 18) return false;
    out->name = arena_text(mem, text, (size_t)(equals - text));
    out->value = strtoll(equals + 1, &end, 10);
    return !*end;
}

bool import_options(const Options *o, Diag *d, ImportOptions *out)
{
    uint32_t n = o->list[OPT_dim].n;
    DimValue *dim = NEW_ARRAY(o->mem, DimValue, n);
    for (uint32_t i = 0; i < n; i++)
        if (!parse_dim(o->list[OPT_dim].at[i], o->mem, &dim[i]))
            return diag_error(d, NULL, "--dim %s: expected NAME=VALUE", o->list[OPT_dim].at[i]);
    uint32_t frozens = o->list[OPT_freeze].n;
    Frozen *frozen = NEW_ARRAY(o->mem, Frozen, frozens);
    for (uint32_t i = 0; i < frozens; i++) {
        const char *text = o->list[OPT_freeze].at[i], *equals = strchr(text, '=');
        if (!equals || equals == text)
            return diag_error(d, NULL, "--freeze %s: expected NAME=NUMBER or NAME=FILE.npy", text);
        frozen[i] = (Frozen){arena_text(o->mem, text, (size_t)(equals - text)), equals + 1};
    }
    *out = (ImportOptions){.max_memory = (uint64_t)option_int(o, OPT_max_memory, 0),
                           .dim = dim,
                           .dims = n,
                           .frozen = frozen,
                           .frozens = frozens};
    return true;
}

static bool is_stage(const char *name)
{
    if (!strcmp(name, "import")) return true;
    for (uint32_t i = 0; pass_at(i); i++)
        if (!strcmp(pass_at(i)->name, name)) return true;
    return false;
}

static bool check_stages(const Options *o, Diag *d)
{
    const OptionId ids[] = {OPT_stop_after, OPT_print_after, OPT_disable};
    for (size_t i = 0; i < COUNT_OF(ids); i++) {
        const char *name = o->value[ids[i]], *all = "import";
        if (!name || is_stage(name)) continue;
        for (uint32_t k = 0; pass_at(k); k++) all = arena_printf(o->mem, "%s, %s", all, pass_at(k)->name);
        return diag_error(d, NULL, "no stage '%s' (%s)", name, all);
    }
    return true;
}

/* ---- progress: a line that is overwritten, on a terminal only ---- */

static bool wants_progress(const Options *o) { return !o->value[OPT_quiet] && isatty(STDERR_FILENO); }

static void progress(const Options *o, const char *step)
{
    if (!wants_progress(o)) return;
    fprintf(stderr, "\r\033[K%s%s", step, *step ? " ..." : "");
    fflush(stderr);
}

static void timed_out(int signal)
{
    static const char text[] = "octet: error: time is up (--timeout)\n";
    (void)signal;
    if (write(STDERR_FILENO, text, sizeof text - 1)) _exit(EXIT_MODEL);
    _exit(EXIT_MODEL);
}

/* ---- the graph ---- */

typedef struct Drive {
    const Options *o;
    Module *m;
    Arena *mem, scratch, late; /* late: what is compared with in the end */
    Quantization *quant;
    SampleSource *samples; /* once asked for */
    PlainRuns runs;        /* of the float model, for the summary */
    Files *files;          /* mapped ones */
    Cache *cache;          /* of kernels: all programs of a compilation share it */
    Policy policy;
    WinogradNote winograd;
    const Graph *imported;
    const Graph *exact; /* before products were rounded */
    const Graph *simple; /* with a report and samples: before "quantize" */
    double since;   /* when it began */
    IntegerNote integer;
    FILE *text;
    Origin *origin;    /* filled by the import when it is not NULL */
    const Graph *compiled; /* of a graph that becomes a model: the one to measure, or NULL */
    bool standard;     /* the graph becomes a model: no operators of Octet's own */
    bool stopped;
} Drive;

static bool drive_begin(Drive *dr)
{
    dr->cache = cache_new(dr->o->value[OPT_cache]);
    if (!policy_read(&dr->policy, dr->o, dr->m->diag)) return false;
    dr->winograd.product = option_is(dr->o, OPT_winograd, "off") ? DT_NONE : dr->policy.filtered;
    dr->winograd.keep = dr->policy.store.keep;
    dr->integer.mem = dr->mem;
    return true;
}

static void rest(void *files) { files_rest(files); }

/* The same compilation, for graphs whose constants live in mem and go with it. */
static Module *module_within(const Drive *dr, Arena *mem)
{
    Module *m = arena_copy(mem, dr->m, sizeof *m);
    m->mem = mem;
    return m;
}

static ValueForm value_form(const Options *o)
{
    if (option_is(o, OPT_values, "float")) return VALUES_FLOAT;
    const Precision *p = precision_of(o);
    return option_is(o, OPT_values, "int8") || (p && p->rounds) ? VALUES_INT8 : VALUES_SAID;
}

static Graph *run_passes(Drive *dr, const Graph *g, const char *from, const char *to, Quantization *q)
{
    PassCtx ctx = {.module = dr->m,
                   .mem = dr->mem,
                   .scratch = &dr->scratch,
                   .quant = q,
                   .winograd = dr->winograd.product ? &dr->winograd : NULL,
                   .integer = &dr->integer,
                   .halves = option_is(dr->o, OPT_int16, "integer"),
                   .values = value_form(dr->o),
                   .standard = dr->standard,
                   .rest = rest,
                   .rest_arg = dr->files};
    PassRun run = {.print_after = dr->o->value[OPT_print_after],
                   .stop_after = dr->o->value[OPT_stop_after],
                   .disable = dr->o->value[OPT_disable],
                   .verify = true,
                   .time = dr->o->value[OPT_time] != NULL,
                   .text = dr->text};
    Graph *done = passes_run(g, &ctx, from, to, &run);
    return dr->m->diag->errors ? NULL : done;
}

static bool stops_before(const char *stage, const char *limit)
{
    for (uint32_t i = 0; stage && pass_at(i); i++) {
        if (!strcmp(pass_at(i)->name, stage)) return true;
        if (!strcmp(pass_at(i)->name, limit)) return false;
    }
    return false;
}

/* The last of them decides what products are made of. */
static Graph *run_last_passes(Drive *dr, const Graph *g, const char *from, Quantization *q)
{
    const char *stop = dr->o->value[OPT_stop_after];
    Graph *exact = run_passes(dr, g, from, before_filter, q);
    if (!exact || (stop && stops_before(stop, before_filter))) return exact;
    dr->exact = exact;
    return run_passes(dr, exact, from_filter, NULL, q);
}

/* What nobody asked for by name must be worth it: methods that look at what weights multiply learn nothing from random numbers, and take
 * minutes for a hundred million weights. */
static void settle_rounding(Drive *dr, const Graph *simple, Quantization *q, const CalibrateOptions *c)
{
    const WeightMethod *asked = q->weights, *blind = precision_rounding_blind(dr->o);
    if (blind == asked || !c->samples) return;
    if (samples_are_random(c->samples)) q->weights = blind;
    else if (weights_coded(simple, q) > ROUNDED_MOST) {
        q->weights = blind;
        diag_warn(dr->m->diag, NULL, "so many weights would take %s long: they are rounded by %s; --weights %s does it nevertheless",
                  asked->name, blind->name, asked->name);
    }
}

static Quantization *quantization_new(Drive *dr)
{
    Quantization *q = NEW(dr->mem, Quantization);
    q->mem = dr->mem, q->keep = dr->o->value[OPT_keep], q->kept = NEW(q->mem, CodesKept);
    q->weights = precision_rounding(dr->o);
    q->narrow = option_is(dr->o, OPT_wide, "off");
    precision_forms(dr->o, q);
    if (dr->origin) q->form.fine = q->table.fine = q->spared.fine = false; /* ONNX has no scales that are codes */
    return q;
}

static void drive_end(Drive *dr)
{
    progress(dr->o, "");
    samples_close(dr->samples);
    policy_drop(&dr->policy), cache_drop(dr->cache);
    arena_drop(&dr->scratch), arena_drop(&dr->late), arena_drop(&dr->runs.mem);
}

/* How far the artefact is from the float model is for whoever reads the summary; a report and a budget tell more. */
static bool tells_outputs(const Drive *dr)
{
    const Options *o = dr->o;
    bool artefact = !dr->origin && !o->value[OPT_emit] && !o->value[OPT_stop_after];
    return artefact && dr->samples && !samples_are_random(dr->samples) && !o->value[OPT_quiet] &&
           !o->value[OPT_report] && !o->value[OPT_max_loss];
}

/* false: the samples cannot be had; reported */
static bool calibrate_options(Drive *dr, CalibrateOptions *c)
{
    const Options *o = dr->o;
    bool wants = o->value[OPT_calibrate] || o->value[OPT_calibrate_cmd];
    if (wants && !dr->samples)
        dr->samples = samples_open(dr->mem, o->value[OPT_calibrate], o->value[OPT_calibrate_cmd], dr->m->diag);
    *c = (CalibrateOptions){.samples = dr->samples,
                            .threads = (int)option_int(o, OPT_threads, usable_cpus()),
                            .cache = dr->cache,
                            .kept = o->value[OPT_calibration_cache],
                            .files = dr->files,
                            .quiet = o->value[OPT_quiet] != NULL,
                            .runs = tells_outputs(dr) ? &dr->runs : NULL,
                            .each = o->value[OPT_report] != NULL};
    return !stat_choose(o->value[OPT_method], &c->method) && (!wants || dr->samples);
}

static bool find_ranges(Drive *dr, const Graph *g, Quantization *q, const CalibrateOptions *c)
{
    Diag *d = dr->m->diag;
    const char *ranges = dr->o->value[OPT_ranges];
    if (ranges && !ranges_read(q, d, ranges)) return false;
    if (c->samples && !smooth_values(g, q, c, option_is(dr->o, OPT_smooth, "auto"), d)) return false;
    gains_of_ranges(g, q);
    return !c->samples || calibrate(g, q, c, d);
}

/* Also the end of what goes into the file of ranges. */
static bool find_wide(Drive *dr, const Graph *g, Quantization *q, const CalibrateOptions *c)
{
    const char *save = dr->o->value[OPT_save_ranges];
    Diag *d = dr->m->diag;
    if (c->samples && !q->narrow && !q->float_activations && !(wide_choose(g, q, c, d) && calibration_note(g, q, c, d))) return false;
    return !save || ranges_write(q, d, save, dr->m->name);
}

/* Where samples tell what layers of few bits cost the outputs. */
static bool settle_spared(Drive *dr, const Graph *g, Quantization *q, const CalibrateOptions *c)
{
    bool wanted = q->bound > 0 && !samples_are_random(c->samples);
    return !wanted || spare_weights(g, q, c, dr->m->diag);
}

/* ---- the budget ---- */
typedef struct BudgetDrive {
    Drive *drive;
    const Graph *simple;
} BudgetDrive;

/* Nothing is printed and nothing stops: what the user asked to see is the graph that is compiled in the end. */
static Graph *budget_passes(void *ctx, Quantization *q, bool simulate, Arena *mem)
{
    const BudgetDrive *b = ctx;
    Drive *dr = b->drive;
    WinogradNote note = dr->winograd;
    PassCtx passes = {.module = module_within(dr, mem),
                      .mem = mem,
                      .scratch = &dr->scratch,
                      .quant = q,
                      .winograd = note.product ? &note : NULL,
                      .halves = option_is(dr->o, OPT_int16, "integer"),
                      .values = value_form(dr->o),
                      .rest = rest,
                      .rest_arg = dr->files};
    PassRun run = {.disable = dr->o->value[OPT_disable], .verify = true};
    Graph *g = passes_run(b->simple, &passes, from_quantize, simulate ? before_integer : NULL, &run);
    return dr->m->diag->errors ? NULL : g;
}

static bool keep_budget(Drive *dr, const Graph *simple, Quantization *q, const CalibrateOptions *c)
{
    const Options *o = dr->o;
    BudgetDrive drive = {dr, region_places(simple, dr->mem)};
    BudgetOptions b;
    if (samples_are_random(c->samples))
        return diag_error(dr->m->diag, NULL, "--max-loss needs samples: what random numbers lose says nothing");
    return budget_options(&b, o, dr->m->diag) &&
           (b.calibrate = *c, budget_run(drive.simple, q, &b, budget_passes, &drive, dr->m->diag));
}

/* Runs passes again for a graph to compare with: it lies in mem, and the notes stay those of the graph that is compiled. */
static Graph *run_passes_again(Drive *dr, const char *to, Quantization *q, Arena *mem)
{
    WinogradNote winograd = dr->winograd;
    IntegerNote integer = dr->integer;
    Arena *kept = dr->mem;
    Module *module = dr->m;
    bool standard = dr->standard;
    dr->m = module_within(dr, mem), dr->mem = mem, dr->standard = false;
    Graph *g = run_passes(dr, dr->simple, from_quantize, to, q);
    dr->m = module, dr->mem = kept, dr->standard = standard, dr->integer = integer, dr->winograd = winograd;
    return g;
}

/* Every layer, in the graph in which everything is quantized and every layer's output exists still. */
static bool measure_each(Drive *dr, const CalibrateOptions *c, double *alone)
{
    Arena mem = {0};
    Quantization again = *dr->quant; /* its layers are noted already */
    again.layer.at = NULL, again.layer.n = again.layer.cap = 0;
    const Graph *simulated = run_passes_again(dr, before_integer, &again, &mem);
    bool ok = simulated && measure_layers(dr->simple, simulated, dr->quant, c, alone, dr->m->diag);
    arena_drop(&mem);
    return ok;
}

/* What nobody asked to see: a rewriting that is tried. */
static Graph *rewritten(void *drive, const Graph *g, Rewriting kind, Quantization *q, Arena *mem)
{
    static const char *const pass[] = {[REWRITING_EQUALIZE] = "equalize", [REWRITING_ROTATE] = "rotate"};
    Drive *dr = drive;
    PassCtx ctx = {.module = module_within(dr, mem), .mem = mem, .scratch = &dr->scratch, .quant = q, .rest = rest, .rest_arg = dr->files};
    PassRun run = {.disable = dr->o->value[OPT_disable], .verify = true};
    Graph *made = passes_run(g, &ctx, pass[kind], pass[kind], &run);
    return dr->m->diag->errors ? NULL : made;
}

/* Which rewritings of the float graph are worth it, where samples can tell. */
static bool settle_rewritings(Drive *dr, const Graph *g, Quantization *q)
{
    CalibrateOptions c;
    Arena mem = {0};
    if (!q->equalize && !q->rotate) return true;
    if (!calibrate_options(dr, &c)) return false;
    if (!c.samples) return true;
    PassCtx ctx = {.module = module_within(dr, &mem), .mem = &mem, .scratch = &dr->scratch, .quant = q, .rest = rest, .rest_arg = dr->files};
    const Graph *simple = passes_run(g, &ctx, NULL, before_rewritings, &(PassRun){.disable = dr->o->value[OPT_disable], .verify = true});
    bool ok = !dr->m->diag->errors && judge_rewritings(simple, q, rewritten, dr, &c, dr->m->diag);
    arena_drop(&mem);
    return ok;
}

/* With q's gains in its constants; they are gone then. */
static const Graph *with_gains(Drive *dr, const Graph *g, Quantization *q)
{
    const Graph *balanced = q->gains.n ? graph_balanced(g, q, dr->mem) : g;
    q->gains.n = 0;
    return balanced;
}

/* The graph quantized with what was found, to be written as a model: from the imported graph again, in which composites stay that only
 * operators of ours can express. Gains that came with codes are values of `simple`, and go with it; others are known by name. */
static Graph *standard_graph(Drive *dr, const Graph *g, const Graph *simple, Quantization *q)
{
    Quantization own = *q, first = *q;
    dr->standard = true;
    bool other = !q->weights->balance;
    if (other) simple = run_passes(dr, g, NULL, before_quantize, q);
    if (simple && other) {
        Quantization floats = *q; /* codes are of the graph with gains already */
        floats.kept = NULL;
        gains_of_ranges(simple, &floats);
        simple = with_gains(dr, simple, &floats);
    }
    if (!simple) return NULL;
    if (q->reverted && other) {
        first.reverted = NULL, first.layer.at = NULL, first.layer.n = first.layer.cap = 0;
        if (!run_passes(dr, simple, from_quantize, from_quantize, &first)) return NULL;
        own.reverted = regions_elsewhere(q, q->reverted, &first, q->mem);
    }
    Graph *made = run_passes(dr, simple, from_quantize, before_integer, &own);
    q->layer = own.layer;
    bool rounds = option_is(dr->o, OPT_values, "int8");
    return made && option_is(dr->o, OPT_form, "matmulnbits") ? graph_nbits(made, dr->mem, rounds) : made;
}

static Graph *compared_graph(Drive *dr, const Graph *simple, Quantization *q)
{
    Graph *done = run_last_passes(dr, simple, from_quantize, q);
    if (dr->o->value[OPT_report] && dr->samples) dr->simple = simple;
    return done;
}

static Graph *quantize_graph(Drive *dr, const Graph *g)
{
    Quantization *q = dr->quant = quantization_new(dr);
    CalibrateOptions c;
    const char *stop = dr->o->value[OPT_stop_after];
    bool early = stop && stops_before(stop, before_rewritings);
    if (!early && !settle_rewritings(dr, g, q)) return NULL;
    const Graph *simple = run_passes(dr, g, NULL, before_quantize, q);
    if (!simple || (stop && stops_before(stop, before_quantize))) return (Graph *)simple;
    Stage stage = {.text = dr->o->value[OPT_time] ? dr->text : NULL};
    if (!calibrate_options(dr, &c)) return NULL;
    settle_rounding(dr, simple, q, &c);
    CalibrateOptions fits = c;
    fits.apart = dr->o->value[OPT_max_loss] ? JUDGES : 0;
    bool divides = q->weights->balance != NULL; /* then ranges and means are those of the quotients */
    stage_begin(&stage, "weights");
    if (divides && !refine_weights(simple, q, &fits, dr->m->diag)) return NULL;
    simple = with_gains(dr, simple, q);
    stage_begin(&stage, "ranges");
    if (!find_ranges(dr, simple, q, &c)) return NULL;
    simple = with_gains(dr, simple, q);
    if (!find_wide(dr, simple, q, &c)) return NULL;
    stage_begin(&stage, "weights");
    if (q->weights->needs && !divides && !refine_weights(simple, q, &fits, dr->m->diag)) return NULL;
    if (c.samples && !settle_spared(dr, simple, q, &c)) return NULL;
    stage_begin(&stage, NULL);
    CodesKept *found = dr->origin ? codes_copied(q) : NULL; /* what passes add is of their graph, not of the one that is written */
    if (dr->o->value[OPT_max_loss] && !keep_budget(dr, simple, q, &c)) return NULL;
    progress(dr->o, "quantizing");
    if (!dr->origin) return compared_graph(dr, simple, q);
    Quantization written = *q; /* layers are noted once: by the graph that is measured, if one is */
    bool measured = dr->o->value[OPT_report] && c.samples;
    written.kept = found;
    if (measured && !(dr->compiled = compared_graph(dr, simple, q))) return NULL;
    if (!measured) q->kept = found;
    return standard_graph(dr, g, simple, measured ? &written : q);
}

static Graph *make_graph(Drive *dr, const char *path, Files *files)
{
    ImportOptions io;
    const char *stop = dr->o->value[OPT_stop_after], *print = dr->o->value[OPT_print_after];
    if (!import_options(dr->o, dr->m->diag, &io)) return NULL;
    io.files = dr->files = files, io.origin = dr->origin;
    Stage stage = {.text = dr->o->value[OPT_time] ? dr->text : NULL};
    progress(dr->o, "reading"), stage_begin(&stage, "import");
    Graph *g = import_file(dr->m, dr->mem, path, &io);
    stage_begin(&stage, NULL);
    if (!g) return NULL;
    dr->imported = g;
    if (print && !strcmp(print, "import")) graph_print(g, dr->text);
    dr->stopped = stop != NULL;
    if (stop && !strcmp(stop, "import")) return g;
    progress(dr->o, "rewriting");
    return makes_codes(dr->o) ? quantize_graph(dr, g) : run_last_passes(dr, g, NULL, NULL);
}

Graph *compile_graph(const Options *o, Module *m, Arena *mem, const char *path, Files *files)
{
    Drive dr = {.o = o, .m = m, .mem = mem, .text = stdout};
    Graph *g = drive_begin(&dr) ? make_graph(&dr, path, files) : NULL;
    drive_end(&dr);
    return g;
}

/* ---- the artefact ---- */

static uint64_t file_size(const char *path)
{
    struct stat st;
    return path && !stat(path, &st) ? (uint64_t)st.st_size : 0;
}

/* How far the outputs are from float32, on the samples or on made-up inputs; for whoever reads it. */
static bool measure_policy(Drive *dr, const Graph *g)
{
    const Options *o = dr->o;
    Policy *p = &dr->policy;
    CalibrateOptions c;
    if (!policy_changes(p) || (o->value[OPT_quiet] && !o->value[OPT_report])) return true;
    progress(o, "measuring");
    return calibrate_options(dr, &c) &&
           calibrate_difference(g, dr->exact, &p->store, &c, &p->difference, &p->measured, dr->m->diag);
}

/* A model that came quantized as it is written: its codes are rounded to, and what is multiplied is floats. */
static const Graph *written_graph(Drive *dr)
{
    PassCtx ctx = {.module = dr->m, .mem = dr->mem, .scratch = &dr->scratch, .rest = rest, .rest_arg = dr->files};
    PassRun run = {.disable = "integer", .verify = true};
    return passes_run(dr->imported, &ctx, NULL, NULL, &run);
}

/* Both programs on the samples, and the quantized layers, with a report and samples; else the outputs, on the few samples that were kept of the float model. */
static bool measure_all(Drive *dr, const Graph *g, const char *out, Report *r, Measured *m)
{
    CalibrateOptions c;
    if (!dr->o->value[OPT_report] && !dr->runs.run.n) return true;
    progress(dr->o, "measuring");
    if (!calibrate_options(dr, &c)) return false;
    if (!c.samples) return true;
    if (dr->runs.run.n) return r->measured = m, measure_outputs(g, &dr->policy.store, out, &c, dr->mem, m, dr->m->diag);
    const Graph *plain = dr->exact ? dr->exact : g;
    if (!dr->quant && dr->integer.at.n && !(plain = written_graph(dr))) return false;
    if (dr->simple) {
        double *alone = NEW_ARRAY(dr->mem, double, dr->quant->layer.n + 1);
        if (!measure_each(dr, &c, alone)) return false;
        r->alone = alone;
        if (!(plain = run_passes_again(dr, NULL, NULL, &dr->late))) return false;
    }
    r->measured = m;
    return measure_programs(plain, g, &dr->policy.store, dr->origin ? NULL : out, &c, dr->mem, m, dr->m->diag);
}

static ReportCalibration calibration_of(const Drive *dr)
{
    if (dr->samples) return samples_are_random(dr->samples) ? CALIBRATION_RANDOM : CALIBRATION_SAMPLES;
    return dr->quant ? CALIBRATION_RANGES : CALIBRATION_NONE;
}

static bool write_report(Drive *dr, const Graph *g, const char *path, const char *out)
{
    const Options *o = dr->o;
    const Quantization *q = dr->quant;
    Measured m;
    Report r = {.model = path,
                .version = octet_version(),
                .target = o->value[OPT_target] ? o->value[OPT_target] : "portable",
                .flags = options_text(o, dr->mem),
                .precision = q ? q->precision : dr->policy.storage,
                .nearer = precision_of(o) ? precision_of(o)->nearer : NULL,
                .method = q && !q->float_activations ? o->value[OPT_method] : NULL,
                .samples = dr->samples ? samples_text(dr->samples) : NULL,
                .calibration = calibration_of(dr),
                .model_bytes = file_size(path),
                .artefact_bytes = file_size(out),
                .compile_seconds = seconds_now() - dr->since,
                .policy = &dr->policy,
                .winograd = &dr->winograd,
                .integer = &dr->integer};
    if (!measure_all(dr, g, out, &r, &m)) return false;
    report_fill(&r, q, dr->mem);
    progress(o, "");
    if (!o->value[OPT_quiet]) report_print(&r, stderr);
    return !o->value[OPT_report] || report_write(&r, dr->m->diag, o->value[OPT_report]);
}

static bool make_artefact(Drive *dr, const Graph *g, const char *path, const char *out)
{
    const Options *o = dr->o;
    const char *emit_what = o->value[OPT_emit];
    CodegenOptions c = {.target = o->value[OPT_target],
                        .out = out,
                        .kind = out ? artefact_kind(out) : ARTEFACT_SO,
                        .jobs = (int)option_int(o, OPT_jobs, 0),
                        .max_threads = (int)option_int(o, OPT_threads, 0),
                        .cache = dr->cache,
                        .quiet = !wants_progress(o),
                        .times = o->value[OPT_time] ? dr->text : NULL,
                        .emit = emit_what,
                        .text = dr->text,
                        .store = dr->policy.store};
    if (emit_what && !strcmp(emit_what, "graph")) return graph_print(g, dr->text), true;
    progress(o, "generating code");
    return codegen_graph(g, &c, dr->m->diag) &&
           (emit_what || (measure_policy(dr, g) && write_report(dr, g, path, out)));
}

bool compile_file(const Options *o, Arena *mem, Diag *d, const char *path, const char *out)
{
    Files files = {.mem = mem};
    Drive dr = {.o = o, .m = module_new(mem, d, path), .mem = mem, .text = stdout, .since = seconds_now()};
    Graph *g = drive_begin(&dr) ? make_graph(&dr, path, &files) : NULL;
    bool ok = g != NULL;
    if (ok && dr.stopped) graph_print(g, dr.text);
    else if (ok) ok = make_artefact(&dr, g, path, out);
    drive_end(&dr);
    files_drop(&files);
    return ok;
}

/* ---- the command ---- */

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool check_report(const Options *o, Diag *d)
{
    const char *report = o->value[OPT_report];
    size_t n = report ? strlen(report) : 0;
    bool json = n > 5 && !strcmp(report + n - 5, ".json");
    return !report || json || report_is_page(report) ||
           diag_error(d, NULL, "--report %s: a page is FILE.html, fields for tools are FILE.json", report);
}

static bool check_usage(const Options *o, Diag *d)
{
    const char *out = o->value[OPT_out], *path = o->arg.at[0];
    ImportOptions io;
    BudgetOptions budget;
    if (!check_stages(o, d) || !policy_check(o, d) || !budget_options(&budget, o, d) || !import_options(o, d, &io) || !check_report(o, d))
        return false;
    bool text = o->value[OPT_emit] || o->value[OPT_stop_after];
    if (!out && !text) return diag_error(d, NULL, "where to? -o OUT");
    if (out && !text && !strcmp(out, "-")) return diag_error(d, NULL, "an artefact cannot go to standard output");
    if (out && strcmp(path, "-") && same_file(path, out))
        return diag_error(d, NULL, "-o %s would overwrite the model", out);
    return true;
}

/* Text goes to standard output, or to a file that appears when it is complete. */
static bool compile_text(const Options *o, Arena *mem, Diag *d, const char *path, const char *out)
{
    Files files = {.mem = mem};
    const char *temporary = NULL;
    FILE *f = !out || !strcmp(out, "-") ? stdout : file_create(mem, d, out, &temporary);
    if (!f) return false;
    Drive dr = {.o = o, .m = module_new(mem, d, path), .mem = mem, .text = f};
    Graph *g = drive_begin(&dr) ? make_graph(&dr, path, &files) : NULL;
    bool ok = g && (dr.stopped ? (graph_print(g, f), true) : make_artefact(&dr, g, path, NULL));
    drive_end(&dr);
    files_drop(&files);
    if (f != stdout) return file_commit(d, f, temporary, out, ok);
    if (!fflush(f) && !ferror(f)) return ok;
    return diag_error(d, NULL, "cannot write to standard output: %s", strerror(errno));
}

int command_compile(const Options *o, Diag *d)
{
    Arena mem = {.folder = temporary_base()};
    const char *path = o->arg.at[0], *out = o->value[OPT_out];
    if (!check_usage(o, d)) return EXIT_USAGE;
    int64_t seconds = option_int(o, OPT_timeout, 0);
    if (seconds) signal(SIGALRM, timed_out), alarm((unsigned)seconds);
    bool text = o->value[OPT_emit] || o->value[OPT_stop_after];
    bool ok = text ? compile_text(o, &mem, d, path, out) : compile_file(o, &mem, d, path, out);
    if (seconds) alarm(0);
    arena_drop(&mem);
    return ok ? 0 : EXIT_MODEL;
}

/* ---- octet quantize ---- */

static bool check_quantize(const Options *o, Diag *d)
{
    const char *out = o->value[OPT_out], *path = o->arg.at[0];
    ImportOptions io;
    BudgetOptions budget;
    if (!makes_codes(o))
        return diag_error(d, NULL, "--quantize %s is how an artefact stores values, not a form of ONNX; octet quantize writes codes",
                          o->value[OPT_quantize]);
    if (!policy_check(o, d) || !budget_options(&budget, o, d) || !import_options(o, d, &io) || !check_report(o, d)) return false;
    if (option_is(o, OPT_form, "matmulnbits") && !precision_packs(o))
        return diag_error(d, NULL, "--form matmulnbits needs --quantize int4 with groups of 16, 32, 64, 128 or 256");
    if (option_is(o, OPT_values, "int8") && !option_is(o, OPT_form, "matmulnbits"))
        return diag_error(
            d, NULL,
            "--values int8 is said by MatMulNBits, not by DequantizeLinear and MatMul: add --form matmulnbits");
    if (!out) return diag_error(d, NULL, "where to? -o OUT.onnx");
    if (o->value[OPT_external_data] && !strcmp(out, "-"))
        return diag_error(d, NULL, "--external-data needs a file: -o OUT.onnx, not standard output");
    return !same_file(path, out) || diag_error(d, NULL, "-o %s would overwrite the model", out);
}

static bool quantize_file(const Options *o, Arena *mem, Diag *d)
{
    Files files = {.mem = mem};
    Origin origin;
    const char *path = o->arg.at[0], *out = o->value[OPT_out];
    Drive dr = {.o = o, .m = module_new(mem, d, path), .mem = mem, .text = stderr, .origin = &origin, .since = seconds_now()};
    Graph *g = drive_begin(&dr) ? make_graph(&dr, path, &files) : NULL;
    progress(o, "");
    bool ok = g && export_model(g, &origin, out, o->value[OPT_external_data] != NULL, d) &&
              write_report(&dr, dr.compiled ? dr.compiled : g, path, out);
    drive_end(&dr);
    files_drop(&files);
    return ok;
}

int command_quantize(const Options *given, Diag *d)
{
    Arena mem = {.folder = temporary_base()};
    Options o = *given;
    if (!o.value[OPT_quantize]) o.value[OPT_quantize] = "int8";
    o.value[OPT_winograd] = "off";
    if (!check_quantize(&o, d)) return EXIT_USAGE;
    int64_t seconds = option_int(&o, OPT_timeout, 0);
    if (seconds) signal(SIGALRM, timed_out), alarm((unsigned)seconds);
    bool ok = quantize_file(&o, &mem, d);
    if (seconds) alarm(0);
    arena_drop(&mem);
    return ok ? 0 : EXIT_MODEL;
}
