/* verify.c - `octet verify`: recorded cases replayed, one line each.
 *
 * A case is a folder with model.onnx, test_data_set_*: input_*.pb and output_*.pb, and perhaps `tol` ("rtol atol"). Each runs in
 * a process of its own, so that a crash or a hang is one failure, not the end; as many at a time as --jobs says, reported in order. Floats pass when |a - b| <= atol + rtol * |b|
 * (NaN equals NaN); everything else must be equal. */
#include "frontend/cli.h"
#include "frontend/runner.h"
#include "frontend/samples.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_REASON = 1000, DEPTH = 8, SMALL = 64, MAX_JOBS = 64 };
static const double RTOL = 1e-3, ATOL = 1e-5;

typedef VEC(const char *) Texts;
typedef struct Verify {
    const Options *o;
    Arena *mem;
    Diag *diag;
    Texts cases;
    Map expected; /* names of --list, to 1 */
    uint32_t passed, failed, listed;
} Verify;

/* ---- folders ---- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static bool is_there(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

/* The names in a folder that begin with `prefix`, sorted. */
static Texts folder_names(Arena *mem, const char *folder, const char *prefix)
{
    Texts names = {0};
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.' && !strncmp(e->d_name, prefix, strlen(prefix)))
            vec_push(mem, &names, arena_text(mem, e->d_name, strlen(e->d_name)));
    if (dir) closedir(dir);
    if (names.n) qsort((void *)names.at, names.n, sizeof *names.at, by_text);
    return names;
}

static void find_cases(Verify *v, const char *folder, int depth)
{
    if (is_there(arena_printf(v->mem, "%s/model.onnx", folder))) {
        vec_push(v->mem, &v->cases, folder);
        return;
    }
    Texts names = depth ? folder_names(v->mem, folder, "") : (Texts){0};
    for (uint32_t i = 0; i < names.n; i++) {
        const char *path = arena_printf(v->mem, "%s/%s", folder, names.at[i]);
        struct stat st;
        if (!stat(path, &st) && S_ISDIR(st.st_mode)) find_cases(v, path, depth - 1);
    }
}

static const char *case_name(Arena *mem, const char *folder)
{
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    size_t at = n;
    while (at && folder[at - 1] != '/') at--;
    return arena_text(mem, folder + at, n - at);
}

/* ---- comparing ---- */

static bool same_element(const Tensor *a, const Tensor *b, int64_t i, double rtol, double atol)
{
    if (a->type == DT_str) return !strcmp(((const char *const *)a->data)[i], ((const char *const *)b->data)[i]);
    if (dtypes[a->type].cls == DC_OTHER) {
        size_t size = (size_t)dtypes[a->type].bytes;
        return !memcmp((const char *)a->data + (size_t)i * size, (const char *)b->data + (size_t)i * size, size);
    }
    if (!dtype_is_float(a->type)) return dtype_load_int(a->type, a->data, i) == dtype_load_int(b->type, b->data, i);
    double x = dtype_load(a->type, a->data, i), y = dtype_load(b->type, b->data, i);
    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y);
    return x == y || fabs(x - y) <= atol + rtol * fabs(y);
}

static const char *shape_text(Arena *mem, const Tensor *t)
{
    const char *s = arena_printf(mem, "%s[", dtypes[t->type].name);
    for (int i = 0; i < t->rank; i++) s = arena_printf(mem, "%s%s%" PRId64, s, i ? "," : "", t->dim[i]);
    return arena_printf(mem, "%s]", s);
}

static const char *element_text(Arena *mem, const Tensor *t, int64_t i)
{
    if (t->type == DT_str) return arena_printf(mem, "'%s'", ((const char *const *)t->data)[i]);
    if (dtype_is_float(t->type)) return arena_printf(mem, "%.9g", dtype_load(t->type, t->data, i));
    if (dtypes[t->type].cls == DC_OTHER) return "another value";
    return arena_printf(mem, "%" PRId64, dtype_load_int(t->type, t->data, i));
}

static bool compare(Arena *mem, Diag *d, const char *name, const Tensor *got, const Tensor *want, double rtol,
                    double atol)
{
    bool shaped = got->type == want->type && got->rank == want->rank;
    for (int i = 0; shaped && i < got->rank; i++) shaped = got->dim[i] == want->dim[i];
    if (!shaped)
        return diag_error(d, NULL, "output '%s' is %s, expected %s", name, shape_text(mem, got), shape_text(mem, want));
    int64_t n = tensor_count(got), bad = 0, first = 0;
    for (int64_t i = 0; i < n; i++)
        if (!same_element(got, want, i, rtol, atol) && !bad++) first = i;
    return !bad || diag_error(d, NULL,
                              "output '%s': element %" PRId64 " is %s, expected %s (%" PRId64 " of %" PRId64 " differ)",
                              name, first, element_text(mem, got, first), element_text(mem, want, first), bad, n);
}

/* ---- one case ---- */

/* *ran: the model took the inputs, whatever came out. */
static bool run_set(Runner *r, Diag *d, const char *folder, bool frozen, double rtol, double atol, bool *ran)
{
    Arena mem = {0};
    const Tensor **in = NEW_ARRAY(&mem, const Tensor *, r->inputs + 1);
    const Tensor **want = NEW_ARRAY(&mem, const Tensor *, r->outputs + 1),
                 **got = NEW_ARRAY(&mem, const Tensor *, r->outputs + 1);
    bool ok = test_set_read(&mem, d, folder, "input", frozen, r->input, r->inputs, in) &&
              test_set_read(&mem, d, folder, "output", false, r->output, r->outputs, want);
    for (uint32_t i = 0; ok && i < r->inputs; i++)
        if (!in[i]) ok = diag_error(d, NULL, "the case has no data for input '%s'", r->input[i]);
    ok = *ran = ok && runner_run(r, &mem, in, got, d);
    for (uint32_t i = 0; ok && i < r->outputs; i++)
        if (want[i]) ok = compare(&mem, d, r->output[i], got[i], want[i], rtol, atol);
    arena_drop(&mem);
    return ok;
}

static void read_tolerance(Arena *mem, const char *folder, double *rtol, double *atol)
{
    *rtol = RTOL, *atol = ATOL;
    FILE *f = fopen(arena_printf(mem, "%s/tol", folder), "r");
    double r, a;
    if (f && fscanf(f, "%lf %lf", &r, &a) == 2) *rtol = r, *atol = a;
    if (f) fclose(f);
}

/* The options with every size of the set's inputs fixed. */
static Options fixed_sizes(const Options *o, Arena *mem, const char *set)
{
    Diag ignored = {.mem = mem, .subject = ""};
    Options fixed = *o;
    for (uint32_t i = 0;; i++) {
        const char *path = arena_printf(mem, "%s/input_%u.pb", set, i), *name = "";
        if (!is_there(path)) return fixed;
        const Tensor *t = import_tensor(mem, &ignored, path, &name);
        for (int a = 0; t && *name && a < t->rank; a++)
            vec_push(mem, &fixed.list[OPT_dim], arena_printf(mem, "%s:%d=%" PRId64, name, a, t->dim[a]));
    }
}

/* A set whose sizes the model's declarations or guards refuse (two inputs say "batch" and differ; Squeeze without axes) gets a
 * model compiled for its sizes alone, as a user would make one with --dim. */
static bool run_set_alone(const Options *o, Arena *mem, Diag *d, const char *folder, const char *set, double rtol,
                          double atol)
{
    Runner r;
    bool ran;
    Options fixed = fixed_sizes(o, mem, set);
    bool ok = runner_open(&r, &fixed, mem, d, arena_printf(mem, "%s/model.onnx", folder)) &&
              run_set(&r, d, set, o->list[OPT_freeze].n != 0, rtol, atol, &ran);
    runner_close(&r);
    return ok;
}

/* *took: the model was compiled and took the inputs of a set, whatever came of running it. */
static bool run_case(const Options *o, Arena *mem, Diag *d, const char *folder, bool *took)
{
    Runner r;
    double rtol, atol;
    read_tolerance(mem, folder, &rtol, &atol);
    const char *artefact = o->value[OPT_artefact];
    bool ok = runner_open(&r, o, mem, d, artefact ? artefact : arena_printf(mem, "%s/model.onnx", folder));
    *took = false;
    Texts sets = folder_names(mem, folder, "test_data_set_");
    if (ok && !sets.n) ok = diag_error(d, NULL, "the case has no test_data_set_0");
    for (uint32_t i = 0; ok && i < sets.n; i++) {
        const char *set = arena_printf(mem, "%s/%s", folder, sets.at[i]);
        Diag first = {.mem = mem, .subject = d->subject}, alone = first;
        bool ran = false;
        ok = run_set(&r, &first, set, o->list[OPT_freeze].n != 0, rtol, atol, &ran);
        if (!ok && !ran && !artefact) ok = run_set_alone(o, mem, &alone, folder, set, rtol, atol);
        if (!ok) *d = first;
        *took |= ok || ran;
    }
    runner_close(&r);
    return ok;
}

/* --freeze-sizes: the options with those inputs of the first set frozen that have at most one dimension and few elements: shapes,
 * axes, sizes, modes. First only integers, then all types. */
static bool freeze_small(const Options *o, Arena *mem, const char *folder, bool floats, Options *out)
{
    Diag ignored = {.mem = mem, .subject = ""};
    *out = *o;
    for (uint32_t i = 0;; i++) {
        const char *path = arena_printf(mem, "%s/test_data_set_0/input_%u.pb", folder, i), *name = "";
        if (!is_there(path)) return out->list[OPT_freeze].n != 0;
        const Tensor *t = import_tensor(mem, &ignored, path, &name);
        bool small = t && *name && t->rank <= 1 && tensor_count(t) <= SMALL && (floats || !dtype_is_float(t->type)) &&
                     t->type != DT_str;
        if (small) vec_push(mem, &out->list[OPT_freeze], arena_printf(mem, "%s=%s", name, path));
    }
}

static bool run_frozen(const Options *o, Arena *mem, Diag *d, const char *folder)
{
    Options frozen;
    bool took = false;
    for (int floats = 0; floats < 2 && !took; floats++) {
        Diag again = {.mem = mem, .subject = ""};
        if (freeze_small(o, mem, folder, floats, &frozen) && run_case(&frozen, mem, &again, folder, &took)) return true;
        if (again.line.n) *d = again;
    }
    return false;
}

/* In the child: the reason of a failure goes through the pipe; nothing means it passed. */
static void child(const Options *o, const char *folder, int to)
{
    Arena mem = {0};
    Diag d = {.mem = &mem, .subject = ""};
    Options alone = *o;
    alone.value[OPT_jobs] = "1";
    alarm((unsigned)option_int(o, OPT_timeout, 0));
    bool took, ok = run_case(&alone, &mem, &d, folder, &took);
    if (!ok && !took && o->value[OPT_freeze_sizes]) ok = run_frozen(&alone, &mem, &d, folder);
    fflush(stdout);
    if (!ok) {
        const char *line = d.line.n ? d.line.at[0] : "failed";
        if (d.line.n > 1) line = arena_printf(&mem, "%s (and %u more)", line, d.errors - 1);
        size_t n = strlen(line);
        if (write(to, line, n < MAX_REASON ? n : MAX_REASON) < 0) _exit(EXIT_INTERNAL);
    }
    _exit(ok ? 0 : EXIT_MODEL);
}

static const char *outcome(Arena *mem, int status, const char *reason)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return "time is up (--timeout)";
    if (WIFSIGNALED(status)) return arena_printf(mem, "crashed (%s)", strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == 0) return NULL;
    return *reason ? reason : arena_printf(mem, "ended with code %d", WEXITSTATUS(status));
}

typedef struct Job {
    pid_t pid; /* 0: none */
    int from;  /* the pipe */
    uint32_t number;
    size_t n;
    char reason[MAX_REASON + 1];
} Job;

static const char *job_start(Verify *v, Job *job, uint32_t number)
{
    int pipes[2];
    job->number = number, job->n = 0;
    if (pipe(pipes)) return "cannot make a pipe";
    fflush(stdout), fflush(stderr);
    job->pid = fork();
    if (!job->pid) close(pipes[0]), child(v->o, v->cases.at[number], pipes[1]);
    close(pipes[1]);
    job->from = pipes[0];
    if (job->pid > 0) return NULL;
    close(pipes[0]), job->pid = 0;
    return "cannot start a process";
}

/* Takes what the child has said; true: it has ended, and *reason says how (NULL: passed). */
static bool job_ended(Verify *v, Job *job, const char **reason)
{
    int status = 0;
    ssize_t got = read(job->from, job->reason + job->n, MAX_REASON - job->n);
    if (got < 0 && errno == EINTR) return false;
    if (got > 0) job->n += (size_t)got;
    if (got > 0 && job->n < MAX_REASON) return false;
    close(job->from);
    while (waitpid(job->pid, &status, 0) < 0 && errno == EINTR) continue;
    job->pid = 0;
    char *text = arena_text(v->mem, job->reason, job->n);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    *reason = outcome(v->mem, status, text);
    return true;
}

static uint32_t job_count(const Options *o)
{
    int64_t n = option_int(o, OPT_jobs, usable_cpus());
    return n < 1 ? 1 : n > MAX_JOBS ? MAX_JOBS : (uint32_t)n;
}

static void report_case(Verify *v, const char *name, const char *reason)
{
    bool listed = map_get(&v->expected, name) != 0;
    if (reason && listed) {
        v->listed++;
        if (!v->o->value[OPT_quiet]) printf("listed %s: %s\n", name, reason);
        return;
    }
    if (!reason && listed) reason = "passes, though it is listed as failing";
    if (reason) printf("FAIL %s: %s\n", name, reason), v->failed++;
    else if (v->passed++, !v->o->value[OPT_quiet]) printf("ok %s\n", name);
}

/* Results wait here until all cases before them are reported. */
typedef struct Results {
    bool *done;
    const char **reason;
    uint32_t reported;
} Results;

static void result_put(Verify *v, Results *r, uint32_t number, const char *reason)
{
    r->done[number] = true, r->reason[number] = reason;
    for (; r->reported < v->cases.n && r->done[r->reported]; r->reported++)
        report_case(v, case_name(v->mem, v->cases.at[r->reported]), r->reason[r->reported]);
}

static void run_cases(Verify *v)
{
    uint32_t jobs = job_count(v->o), next = 0, running = 0;
    Job *job = NEW_ARRAY(v->mem, Job, jobs);
    Results r = {NEW_ARRAY(v->mem, bool, v->cases.n), NEW_ARRAY(v->mem, const char *, v->cases.n), 0};
    while (next < v->cases.n || running) {
        struct pollfd fd[MAX_JOBS];
        for (uint32_t i = 0; i < jobs; i++) {
            while (!job[i].pid && next < v->cases.n) {
                const char *why = job_start(v, &job[i], next++);
                if (why) result_put(v, &r, job[i].number, why);
                else running++;
            }
            fd[i] = (struct pollfd){.fd = job[i].pid ? job[i].from : -1, .events = POLLIN};
        }
        if (poll(fd, jobs, -1) < 0) continue;
        for (uint32_t i = 0; i < jobs; i++) {
            const char *reason;
            if (!fd[i].revents || !job_ended(v, &job[i], &reason)) continue;
            running--, result_put(v, &r, job[i].number, reason);
        }
    }
}

/* ---- the command ---- */

static bool read_list(Verify *v, const char *path)
{
    FileBytes f;
    if (!path) return true;
    if (!file_bytes(v->mem, NULL, v->diag, path, &f)) return false;
    for (const char *p = (const char *)f.at, *end = p + f.n; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p), name = 0;
        while (name < n && p[name] != '\t') name++;
        if (name && *p != '#') map_put(v->mem, &v->expected, arena_text(v->mem, p, name), 1);
        p += n + 1;
    }
    return true;
}

int command_verify(const Options *o, Diag *d)
{
    Arena mem = {0};
    Verify v = {.o = o, .mem = &mem, .diag = d};
    ImportOptions io;
    if (!import_options(o, d, &io)) return EXIT_USAGE;
    if (!read_list(&v, o->value[OPT_list])) return EXIT_USAGE;
    for (uint32_t i = 0; i < o->arg.n; i++) find_cases(&v, o->arg.at[i], DEPTH);
    if (!v.cases.n)
        return diag_error(d, NULL, "no cases (folders with a model.onnx) in %s", o->arg.at[0]), arena_drop(&mem),
               EXIT_USAGE;
    run_cases(&v);
    printf("%u passed, %u failed%s\n", v.passed, v.failed, v.listed ? arena_printf(&mem, ", %u listed", v.listed) : "");
    int code = v.failed ? EXIT_MODEL : 0;
    arena_drop(&mem);
    return code;
}
