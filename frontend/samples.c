/* samples.c - see samples.h. Pieces (a file, a test folder, an archive of a program's output, a seed) become named arrays; the shared
 * half below makes samples of them: a piece is one sample, or several stacked along a first axis.
 *
 * A program writes .npz files to its standard output, one after the other: np.savez(sys.stdout.buffer, x=a) in Python, or
 * `cat *.npz`. An archive says itself where it ends, so nothing else needs to be agreed. */
#include "frontend/samples.h"
#include "frontend/import.h"
#include "frontend/npz.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum ReadState { READ_OK, READ_END, READ_FAILED } ReadState;
typedef struct SourceKind {
    bool (*open)(SampleSource *s, Diag *d);
    ReadState (*read)(SampleSource *s, const Graph *g, uint32_t i, Arena *mem, NamedTensors *out, Diag *d);
    const char *(*name)(const SampleSource *s, uint32_t i, Arena *mem);
} SourceKind;

struct SampleSource {
    Arena *mem;
    const SourceKind *kind;
    const char *text;
    uint32_t pieces;             /* 0: not known before the end */
    VEC(const char *) path;      /* files: the pieces */
    Files files;
    FILE *from, *spool;          /* command: its output while it runs; what has come so far */
    VEC(uint64_t) start;         /* command: where each archive begins in the spool, and the end */
};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

/* ---- files ---- */
static bool is_kind(const char *path, mode_t kind)
{
    struct stat st;
    return !stat(path, &st) && (st.st_mode & S_IFMT) == kind;
}

bool test_set_read(Arena *mem, Diag *d, const char *folder, const char *prefix, bool skips, const char *const *names,
                   uint32_t n, const Tensor **tensors)
{
    for (uint32_t i = 0;; i++) {
        const char *path = arena_printf(mem, "%s/%s_%u.pb", folder, prefix, i), *name = "";
        if (access(path, F_OK)) return true;
        const Tensor *t = import_tensor(mem, d, path, &name);
        if (!t) return false;
        uint32_t at = *name && skips ? n : i;
        for (uint32_t k = 0; k < n; k++)
            if (!strcmp(names[k], name)) at = k;
        if (at < n) tensors[at] = t;
    }
}

static bool read_set(SampleSource *s, const Graph *g, const char *path, Arena *mem, NamedTensors *out, Diag *d)
{
    uint32_t n = g->input.n;
    const char **names = NEW_ARRAY(mem, const char *, n + 1);
    const Tensor **t = NEW_ARRAY(mem, const Tensor *, n + 1);
    (void)s;
    for (uint32_t i = 0; i < n; i++) names[i] = graph_val(g, g->input.at[i])->name;
    if (!test_set_read(mem, d, path, "input", false, names, n, t)) return false;
    for (uint32_t i = 0; i < n; i++)
        if (t[i]) vec_push(mem, out, (NamedTensor){names[i], t[i]});
    return true;
}

static bool read_npy(SampleSource *s, const Graph *g, const char *path, Arena *mem, NamedTensors *out, Diag *d)
{
    if (g->input.n != 1)
        return diag_error(d, NULL, "%s: a .npy sample needs a model with one input, this one has %u", path, g->input.n);
    const Tensor *t = npy_map(mem, &s->files, d, path);
    if (t) vec_push(mem, out, (NamedTensor){graph_val(g, g->input.at[0])->name, t});
    return t != NULL;
}

static bool read_npz(SampleSource *s, const Graph *g, const char *path, Arena *mem, NamedTensors *out, Diag *d)
{
    (void)s, (void)g;
    return npz_read(mem, d, path, out);
}

static bool is_set(const char *path)
{
    Arena mem = {0};
    bool is = is_kind(arena_printf(&mem, "%s/input_0.pb", path), S_IFREG);
    arena_drop(&mem);
    return is;
}
static bool is_npy(const char *path) { return ends_with(path, ".npy"); }
static bool is_npz(const char *path) { return ends_with(path, ".npz"); }

/* What a folder may hold, and how it is read. A file given by itself is an .npz whatever it is called, unless it is an .npy. */
static const struct {
    bool (*is)(const char *path);
    bool (*read)(SampleSource *s, const Graph *g, const char *path, Arena *mem, NamedTensors *out, Diag *d);
} forms[] = {{is_set, read_set}, {is_npy, read_npy}, {is_npz, read_npz}};
enum { FORM_NPZ = 2 };

static size_t form_of(const char *path)
{
    size_t i = 0;
    while (i < COUNT_OF(forms) && !forms[i].is(path)) i++;
    return i;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static bool files_open(SampleSource *s, Diag *d)
{
    struct stat st;
    if (stat(s->text, &st)) return diag_error(d, NULL, "--calibrate %s: %s", s->text, strerror(errno));
    if (!S_ISDIR(st.st_mode) || is_set(s->text)) return vec_push(s->mem, &s->path, s->text), s->pieces = 1, true;
    DIR *dir = opendir(s->text);
    if (!dir) return diag_error(d, NULL, "--calibrate %s: %s", s->text, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        const char *path = arena_printf(s->mem, "%s/%s", s->text, e->d_name);
        if (*e->d_name != '.' && form_of(path) < COUNT_OF(forms)) vec_push(s->mem, &s->path, path);
    }
    closedir(dir);
    if (!s->path.n)
        return diag_error(d, NULL, "--calibrate %s: no .npz or .npy file and no test_data_set_* in this folder", s->text);
    qsort(s->path.at, s->path.n, sizeof *s->path.at, by_name);
    return s->pieces = s->path.n, true;
}

static ReadState files_read(SampleSource *s, const Graph *g, uint32_t i, Arena *mem, NamedTensors *out, Diag *d)
{
    if (i == s->path.n) return READ_END;
    size_t form = form_of(s->path.at[i]);
    if (form == COUNT_OF(forms)) form = FORM_NPZ;
    return forms[form].read(s, g, s->path.at[i], mem, out, d) ? READ_OK : READ_FAILED;
}

static const char *files_name(const SampleSource *s, uint32_t i, Arena *mem) { return (void)mem, s->path.at[i]; }

/* ---- a program's output ---- */
enum { END_RECORD = 22, ZIP64_RECORDS = 76 }; /* of a zip: its last record without a comment; what may stand before it */
static const uint64_t MAX_ARCHIVE = UINT32_MAX;

static bool command_open(SampleSource *s, Diag *d)
{
    char *path = arena_printf(s->mem, "%s/octet-samples-XXXXXX", temporary_base());
    int fd = mkstemp(path);
    if (fd < 0) return diag_error(d, NULL, "%s cannot be made: %s", path, strerror(errno));
    unlink(path);
    s->spool = fdopen(fd, "w+b");
    s->from = s->spool ? popen(s->text, "r") : NULL;
    vec_push(s->mem, &s->start, 0);
    return s->from || diag_error(d, NULL, "--calibrate-cmd '%s': cannot be run: %s", s->text, strerror(errno));
}

static uint32_t little(const uint8_t *ring, uint64_t at, int bytes)
{
    uint32_t v = 0;
    while (bytes--) v = v << 8 | ring[(at + (uint64_t)bytes) % END_RECORD];
    return v;
}

/* Are the last bytes of an archive of n bytes its end? ring[k % END_RECORD] is byte k. The record must lie right behind the directory
 * whose place and size it states. */
static bool is_end(const uint8_t *ring, uint64_t n, uint32_t *comment)
{
    if (n < END_RECORD) return false;
    uint64_t at = n - END_RECORD;
    if (ring[at % END_RECORD] != 'P' || little(ring, at, 4) != 0x06054b50) return false;
    uint64_t behind = (uint64_t)little(ring, at + 12, 4) + little(ring, at + 16, 4);
    *comment = little(ring, at + 20, 2);
    return behind == at || behind + ZIP64_RECORDS == at;
}

/* Moves one archive from the program to the spool. READ_END: there is none left. */
static ReadState archive_take(SampleSource *s, Diag *d)
{
    uint8_t ring[END_RECORD] = {0};
    uint32_t sample = s->start.n - 1, comment = 0;
    uint64_t n = 0;
    int c;
    while ((c = getc_unlocked(s->from)) != EOF && n < MAX_ARCHIVE) {
        ring[n++ % END_RECORD] = (uint8_t)c;
        if (putc_unlocked(c, s->spool) == EOF) break;
        if (n == 4 && little(ring, 0, 4) != 0x04034b50)
            return diag_error(d, NULL,
                              "--calibrate-cmd: sample %u: not an .npz file: its output is np.savez(sys.stdout.buffer, ...) for every "
                              "sample and nothing else",
                              sample),
                   READ_FAILED;
        if (!is_end(ring, n, &comment)) continue;
        while (comment && (c = getc_unlocked(s->from)) != EOF) comment--, n++, putc_unlocked(c, s->spool);
        vec_push(s->mem, &s->start, s->start.at[sample] + n);
        return READ_OK;
    }
    if (ferror(s->spool)) return diag_error(d, NULL, "samples cannot be kept: %s (TMPDIR)", strerror(errno)), READ_FAILED;
    if (n >= MAX_ARCHIVE) return diag_error(d, NULL, "--calibrate-cmd: sample %u: more than 4 GB", sample), READ_FAILED;
    if (n) diag_error(d, NULL, "--calibrate-cmd: sample %u: the output ends inside it", sample);
    return n ? READ_FAILED : READ_END;
}

/* How the program ended. false: reported. One that was cut off is not blamed for it. */
static bool command_ended(SampleSource *s, Diag *d)
{
    bool cut_off = !feof(s->from);
    int status = pclose(s->from);
    uint32_t had = s->start.n - 1;
    s->from = NULL;
    if (cut_off) return false;
    if (WIFEXITED(status) && WEXITSTATUS(status))
        return diag_error(d, NULL, "--calibrate-cmd '%s': failed with status %d after %u samples", s->text, WEXITSTATUS(status),
                          had);
    if (WIFSIGNALED(status))
        return diag_error(d, NULL, "--calibrate-cmd '%s': killed by signal %d after %u samples", s->text, WTERMSIG(status), had);
    s->pieces = had;
    return had || d->errors || diag_error(d, NULL, "--calibrate-cmd '%s': wrote no samples", s->text);
}

static ReadState command_read(SampleSource *s, const Graph *g, uint32_t i, Arena *mem, NamedTensors *out, Diag *d)
{
    (void)g;
    if (i + 1 == s->start.n) {
        ReadState state = s->from ? archive_take(s, d) : READ_END;
        if (state != READ_OK && s->from && !command_ended(s, d)) return READ_FAILED;
        if (state != READ_OK) return state;
    }
    uint64_t n = s->start.at[i + 1] - s->start.at[i];
    uint8_t *bytes = arena_alloc(mem, n);
    bool ok = !fseeko(s->spool, (off_t)s->start.at[i], SEEK_SET) && fread(bytes, 1, n, s->spool) == n &&
              !fseeko(s->spool, 0, SEEK_END);
    if (!ok) return diag_error(d, NULL, "samples cannot be read back: %s (TMPDIR)", strerror(errno)), READ_FAILED;
    return npz_parse(mem, d, s->kind->name(s, i, mem), (FileBytes){bytes, n}, out) ? READ_OK : READ_FAILED;
}

static const char *command_name(const SampleSource *s, uint32_t i, Arena *mem)
{
    return (void)s, arena_printf(mem, "--calibrate-cmd: sample %u", i);
}

/* ---- random numbers: "random" or "random:N" ---- */
enum { RANDOM_SAMPLES = 16, MOST_RANDOM = 1 << 20 };
static const char random_word[] = "random";

static bool says_random(const char *text)
{
    size_t n = sizeof random_word - 1;
    return !strncmp(text, random_word, n) && (!text[n] || text[n] == ':');
}

static bool random_open(SampleSource *s, Diag *d)
{
    const char *count = s->text + sizeof random_word - 1;
    char *end = "";
    long n = *count ? strtol(count + 1, &end, 10) : RANDOM_SAMPLES;
    if (*end || n < 1 || n > MOST_RANDOM)
        return diag_error(d, NULL, "--calibrate %s: expected random:N, N from 1 to %d", s->text, MOST_RANDOM);
    s->pieces = (uint32_t)n;
    diag_warn(d, NULL, "calibrated on RANDOM DATA: ranges and accuracy mean nothing for real inputs (--calibrate %s)", s->text);
    return true;
}

static ReadState random_read(SampleSource *s, const Graph *g, uint32_t i, Arena *mem, NamedTensors *out, Diag *d)
{
    (void)d;
    if (i == s->pieces) return READ_END;
    for (uint32_t k = 0; k < g->input.n; k++) {
        const Value *v = graph_val(g, g->input.at[k]);
        int64_t dim[MAX_RANK];
        for (int a = 0; a < v->type.rank; a++)
            if (!dim_is_const(g->module->dim, v->type.dim[a], &dim[a])) dim[a] = 1;
        vec_push(mem, out, (NamedTensor){v->name, tensor_made_up(mem, v->type.dtype, v->type.rank, dim, i)});
    }
    return READ_OK;
}

static const char *random_name(const SampleSource *s, uint32_t i, Arena *mem)
{
    return (void)s, arena_printf(mem, "random sample %u, whose free sizes are 1 (--dim)", i);
}

static const SourceKind from_files = {files_open, files_read, files_name},
                        from_command = {command_open, command_read, command_name},
                        from_random = {random_open, random_read, random_name};

/* ---- opening ---- */
SampleSource *samples_open(Arena *mem, const char *path, const char *command, Diag *diag)
{
    if (!path && !command) return NULL;
    SampleSource *s = NEW(mem, SampleSource);
    s->mem = mem, s->files.mem = mem, s->text = path ? path : command;
    s->kind = command ? &from_command : says_random(path) ? &from_random : &from_files;
    if (s->kind->open(s, diag)) return s;
    samples_close(s);
    return NULL;
}

void samples_close(SampleSource *s)
{
    if (!s) return;
    if (s->from) pclose(s->from); /* it may have had more to say: it is told by SIGPIPE */
    if (s->spool) fclose(s->spool);
    files_drop(&s->files);
}

SampleSource *samples_random(Arena *mem, uint32_t n)
{
    SampleSource *s = NEW(mem, SampleSource);
    *s = (SampleSource){.mem = mem, .kind = &from_random, .text = random_word, .pieces = n};
    return s;
}

bool samples_are_random(const SampleSource *s) { return s->kind == &from_random; }
const char *samples_text(const SampleSource *s) { return s->text; }

/* ---- from arrays to samples ---- */
static const char *shape_text(const Tensor *t, Arena *mem)
{
    const char *s = dtypes[t->type].name;
    for (int d = 0; d < t->rank; d++) s = arena_printf(mem, "%s%s%lld", s, d ? "," : "[", (long long)t->dim[d]);
    return arena_printf(mem, "%s%s", s, t->rank ? "]" : "[]");
}

static bool sizes_fit(const Graph *g, const Type *want, const int64_t *dim, int from)
{
    for (int d = from; d < want->rank; d++) {
        int64_t is;
        if (dim_is_const(g->module->dim, want->dim[d], &is) && is != dim[d]) return false;
    }
    return true;
}

/* How many samples an array holds for an input: 1 as it is, 0 not at all. Several are stacked along an axis more than the input has, or along
 * its first axis where the model fixes that one. */
static int64_t rows_of(const Graph *g, const Type *want, const Tensor *t)
{
    int64_t first;
    if (t->type != want->dtype) return 0;
    if (t->rank == want->rank && sizes_fit(g, want, t->dim, 0)) return 1;
    if (t->rank == want->rank + 1 && sizes_fit(g, want, t->dim + 1, 0)) return t->dim[0];
    if (t->rank != want->rank || !t->rank || !dim_is_const(g->module->dim, want->dim[0], &first) || !first) return 0;
    return t->dim[0] % first || !sizes_fit(g, want, t->dim, 1) ? 0 : t->dim[0] / first;
}

static bool has_nan(const Tensor *t)
{
    int64_t n = dtype_is_float(t->type) ? tensor_count(t) : 0;
    for (int64_t i = 0; i < n; i++)
        if (isnan(dtype_load(t->type, t->data, i))) return true;
    return false;
}

typedef struct Piece {
    const char *name;
    NamedTensors named;
    const Tensor **of;           /* the array for each input */
    int64_t rows;
    bool stacked;
} Piece;

/* Every array against the inputs; all that is wrong is said. */
static bool piece_check(const Graph *g, Piece *p, Arena *mem, Diag *d)
{
    unsigned before = d->errors;
    p->of = NEW_ARRAY(mem, const Tensor *, g->input.n + 1), p->rows = g->input.n ? 0 : 1;
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        const NamedTensor *found = npz_find(&p->named, v->name);
        if (!found) {
            diag_error(d, NULL, "%s: no array named '%s', an input of the model", p->name, v->name);
            continue;
        }
        const Tensor *t = p->of[i] = found->tensor;
        int64_t rows = rows_of(g, &v->type, t);
        bool stacked = t->rank != v->type.rank || rows > 1;
        if (!rows)
            diag_error(d, NULL, "%s: array '%s' is %s, the model expects %s", p->name, v->name, shape_text(t, mem),
                       type_text(g->module, &v->type, mem));
        else if (p->rows && (rows != p->rows || stacked != p->stacked))
            diag_error(d, NULL, "%s: array '%s' holds %lld samples, the arrays before it %lld", p->name, v->name, (long long)rows,
                       (long long)p->rows);
        if (rows && !p->rows) p->rows = rows, p->stacked = stacked;
        if (rows <= 1 && has_nan(t)) diag_error(d, NULL, "%s: array '%s' holds NaN", p->name, v->name);
    }
    for (uint32_t i = 0; i < p->named.n; i++) {
        bool known = false;
        for (uint32_t k = 0; k < g->input.n; k++)
            known = known || !strcmp(p->named.at[i].name, graph_val(g, g->input.at[k])->name);
        if (!known) diag_error(d, NULL, "%s: array '%s' is no input of the model", p->name, p->named.at[i].name);
    }
    return d->errors == before;
}

/* Row r of a stack, as the input's shape. */
static const Tensor *row_of(const Files *files, const Tensor *t, int rank, int64_t r, int64_t rows, Arena *mem)
{
    Tensor *out = NEW(mem, Tensor);
    int extra = t->rank - rank;
    *out = (Tensor){.type = t->type, .rank = rank};
    memcpy(out->dim, t->dim + extra, sizeof *out->dim * (size_t)rank);
    if (!extra) out->dim[0] /= rows;
    const uint8_t *from = (const uint8_t *)t->data + tensor_bytes(out) * (size_t)r;
    out->data = arena_copy(mem, from, tensor_bytes(out));
    files_forget(files, from, tensor_bytes(out));
    return out;
}

typedef struct Walk {
    SampleSource *source;
    const Graph *g;
    uint32_t most, seen;
    SampleFn *each;
    void *ctx;
    Diag *diag;
} Walk;

static bool walk_row(Walk *w, const Piece *p, int64_t r)
{
    Arena mem = {0};
    const Graph *g = w->g;
    const Tensor **in = NEW_ARRAY(&mem, const Tensor *, g->input.n + 1);
    const char *name = p->stacked ? arena_printf(&mem, "%s[%lld]", p->name, (long long)r) : p->name;
    bool ok = true;
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        in[i] = p->stacked ? row_of(&w->source->files, p->of[i], v->type.rank, r, p->rows, &mem) : p->of[i];
        if (p->rows > 1 && has_nan(in[i])) ok = diag_error(w->diag, NULL, "%s: array '%s' holds NaN", name, v->name);
    }
    Sample s = {.name = name, .index = w->seen++, .in = in, .mem = &mem};
    s.of = !p->stacked ? w->source->pieces : w->source->pieces == 1 ? (uint32_t)p->rows : 0;
    if (ok && !w->each(w->ctx, &s, w->diag)) ok = false, diag_note(w->diag, "with %s", name);
    arena_drop(&mem);
    return ok;
}

/* READ_END: enough, or none left. */
static ReadState walk_piece(Walk *w, uint32_t i)
{
    Arena mem = {0};
    Piece p = {0};
    ReadState state = w->source->kind->read(w->source, w->g, i, &mem, &p.named, w->diag);
    if (state == READ_OK) p.name = w->source->kind->name(w->source, i, &mem);
    if (state == READ_OK && !piece_check(w->g, &p, &mem, w->diag)) state = READ_FAILED;
    for (int64_t r = 0; state == READ_OK && r < p.rows; r++) {
        if (w->most && w->seen == w->most) state = READ_END;
        else if (!walk_row(w, &p, r)) state = READ_FAILED;
    }
    arena_drop(&mem);
    return state;
}

bool samples_are_streamed(const SampleSource *s) { return !s->pieces; }

bool samples_each(SampleSource *s, const Graph *g, uint32_t most, SampleFn *each, void *ctx, Diag *diag)
{
    Walk w = {s, g, most, 0, each, ctx, diag};
    ReadState state = READ_OK;
    for (uint32_t i = 0; state == READ_OK && !(most && w.seen == most); i++) state = walk_piece(&w, i);
    return state != READ_FAILED;
}

CacheKey sample_key(const Sample *s, const Graph *g)
{
    struct {
        int64_t type, rank, dim[MAX_RANK];
        CacheKey data;
    } part;
    CacheKey all = {{0}};
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Tensor *t = s->in[i];
        CacheKey chain[2] = {all};
        memset(&part, 0, sizeof part);
        part.type = t->type, part.rank = t->rank, part.data = cache_key(t->data, tensor_bytes(t));
        memcpy(part.dim, t->dim, sizeof *t->dim * (size_t)t->rank);
        chain[1] = cache_key(&part, sizeof part);
        all = cache_key(chain, sizeof chain);
    }
    return all;
}
