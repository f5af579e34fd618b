/* moments.c - see moments.h. Sums are made tile by tile (tile.h), in one order on every machine. */
#include "passes/moments.h"
#include "ir/ops/window.h"
#include "passes/tile.h"
#include "passes/weights.h"
#include <assert.h>
#include <math.h>

/* ---- rows of a tensor ---- */
typedef struct RowMap {
    /* a product: row r of block b begins at matrix[b * matrices + r / per] + r % per * in */
    int64_t *matrix, matrices, per;
    /* windows: of image r / windows at position r % windows, channels from block * channels on */
    int spaces;
    int64_t windows, channels, all_channels, plane, taps;
    int64_t in[MAX_SPATIAL], out[MAX_SPATIAL], kernel[MAX_SPATIAL], lo[MAX_SPATIAL], stride[MAX_SPATIAL],
        dilation[MAX_SPATIAL];
} RowMap;

/* Element `at` of a list of sizes, counted from the last; 1 beyond. */
static int64_t size_from_end(const int64_t *dim, int n, int at) { return at < n ? dim[n - 1 - at] : 1; }

/* Do matrix `i` of x and matrix `b` of w meet under broadcasting? */
static bool batches_meet(const int64_t *x, int nx, int64_t i, const int64_t *w, int nw, int64_t b)
{
    for (int at = 0; at < nx || at < nw; at++) {
        int64_t dx = size_from_end(x, nx, at), dw = size_from_end(w, nw, at);
        if (dx != 1 && dw != 1 && i % dx != b % dw) return false;
        i /= dx, b /= dw;
    }
    return true;
}

static InputRows product_rows(const WeightMatrix *m, const Tensor *x, Arena *mem)
{
    const Tensor *w = m->tensor;
    int64_t count = tensor_count(x), per = x->rank > 1 ? x->dim[x->rank - 2] : 1, all = per * m->in;
    InputRows r = {.blocks = m->blocks, .in = m->in, .x = x->data};
    if (!count || x->dim[x->rank - 1] != m->in) return r;
    RowMap *map = NEW(mem, RowMap);
    int64_t matrices = count / all;
    map->per = per, map->matrix = NEW_ARRAY(mem, int64_t, matrices * m->blocks + 1);
    for (int64_t b = 0; b < m->blocks; b++) {
        int64_t found = 0;
        for (int64_t i = 0; i < matrices; i++)
            if (batches_meet(x->dim, x->rank > 2 ? x->rank - 2 : 0, i, w->dim, w->rank - 2, b))
                map->matrix[b * (b ? map->matrices : 0) + found++] = i * all;
        assert(!b || found == map->matrices);
        map->matrices = found;
    }
    r.rows = map->matrices * per, r.map = map;
    return r;
}

static bool numbers_of(const Dims *d, const Dim *from, int n, int64_t *to)
{
    for (int i = 0; i < n; i++)
        if (!dim_is_const(d, from[i], &to[i])) return false;
    return true;
}

static InputRows window_rows(const Graph *g, const Node *n, const WeightMatrix *m, const Tensor *x, Arena *mem)
{
    Dims *d = g->module->dim;
    InputRows r = {.blocks = m->blocks, .in = m->in, .x = x->data};
    Type type = {x->type, x->rank, {{0}}};
    Dim kernel[MAX_RANK];
    for (int i = 0; i < x->rank; i++) type.dim[i] = dim_const(d, x->dim[i]);
    for (int i = 2; i < x->rank; i++) kernel[i - 2] = dim_const(d, m->tensor->dim[i]);
    Window w;
    const char *why = NULL;
    RowMap *map = NEW(mem, RowMap);
    if (!window_read(&w, d, n, &type, kernel, &why) || !numbers_of(d, w.in, w.n, map->in) ||
        !numbers_of(d, w.out, w.n, map->out) || !numbers_of(d, w.kernel, w.n, map->kernel) ||
        !numbers_of(d, w.lo, w.n, map->lo) || x->dim[1] != m->channels * m->blocks)
        return r;
    map->spaces = w.n, map->channels = m->channels, map->all_channels = x->dim[1], map->taps = m->in / m->channels;
    map->windows = map->plane = 1;
    for (int i = 0; i < w.n; i++) {
        map->windows *= map->out[i], map->plane *= map->in[i];
        map->stride[i] = w.stride[i], map->dilation[i] = w.dilation[i];
    }
    r.rows = x->dim[0] * map->windows, r.map = map;
    return r;
}

InputRows input_rows(const Graph *g, const Node *n, const WeightMatrix *m, const Tensor *x, Arena *mem)
{
    if (!m->in || !m->out) return (InputRows){0};
    return n->op->w_taps ? window_rows(g, n, m, x, mem) : product_rows(m, x, mem);
}

/* Where tap `tap` of the window at `at` looks, in a plane of the image; -1: into the padding. */
static int64_t tap_place(const RowMap *m, int64_t at, int64_t tap)
{
    int64_t place = 0, step = 1;
    for (int i = m->spaces; i-- > 0; step *= m->in[i]) {
        int64_t p = at % m->out[i] * m->stride[i] + tap % m->kernel[i] * m->dilation[i] - m->lo[i];
        if (p < 0 || p >= m->in[i]) return -1;
        place += p * step, at /= m->out[i], tap /= m->kernel[i];
    }
    return place;
}

static void window_row(const InputRows *r, int64_t block, int64_t row, float *out)
{
    const RowMap *m = r->map;
    const float *image = r->x + (row / m->windows * m->all_channels + block * m->channels) * m->plane;
    for (int64_t tap = 0; tap < m->taps; tap++) {
        int64_t at = tap_place(m, row % m->windows, tap);
        for (int64_t c = 0; c < m->channels; c++) out[tap * m->channels + c] = at < 0 ? 0 : image[c * m->plane + at];
    }
}

InputRows rows_part(InputRows r, int64_t every, bool last)
{
    r.every = every, r.rest = !last;
    r.rows = last ? r.rows / every : r.rows - r.rows / every;
    return r;
}

InputRows rows_read(InputRows r, const Tensor *read, Arena *mem)
{
    if (read->type != DT_f32 || tensor_count(read) != r.rows) return r;
    int64_t *only = NEW_ARRAY(mem, int64_t, r.rows + 1), n = 0;
    for (int64_t i = 0; i < r.rows; i++)
        if (((const float *)read->data)[i] != 0) only[n++] = i;
    r.only = only, r.rows = n;
    return r;
}

void input_row(const InputRows *r, int64_t block, int64_t row, float *out)
{
    const RowMap *m = r->map;
    if (r->every) row = r->rest ? row + row / (r->every - 1) : row * r->every + r->every - 1;
    if (r->only) row = r->only[row];
    if (!m->matrix) {
        window_row(r, block, row, out);
        return;
    }
    memcpy(out, r->x + m->matrix[block * m->matrices + row / m->per] + row % m->per * r->in,
           sizeof *out * (size_t)r->in);
}

/* ---- moments ---- */
enum { CHUNK = 256, HELD = 256, HELD_FLOATS = 4 << 20 };

static int64_t padded(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

size_t moments_bytes(const WeightMatrix *m)
{
    int64_t ld = padded(m->in);
    return sizeof(float) * (size_t)(m->blocks * ld * ld);
}

Moments *moments_new(const WeightMatrix *m, Arena *mem)
{
    Moments *s = NEW(mem, Moments);
    int64_t ld = padded(m->in), room = HELD_FLOATS / (m->blocks * ld + 1);
    *s = (Moments){.in = m->in, .blocks = m->blocks, .ld = ld, .seed = 1};
    s->held_room = room < 16 ? 16 : room > HELD ? HELD : room;
    s->second = NEW_ARRAY(mem, float, m->blocks * ld * ld), s->size = NEW_ARRAY(mem, double, m->blocks * m->in);
    s->sum = NEW_ARRAY(mem, double, m->blocks * m->in);
    s->held = NEW_ARRAY(mem, float, m->blocks * s->held_room * ld);
    s->held_share = NEW_ARRAY(mem, double, m->blocks * s->held_room);
    return s;
}

/* h[i][j] += x[.][i] . x[.][j] for the tile at (i, j) */
static void add_tile(float *h, int64_t ld, const float *x, int64_t rows, int64_t i, int64_t j)
{
    float sum[TALL][TILE] = {{0}};
    const float *left[TALL];
    for (int p = 0; p < TALL; p++) left[p] = x + i + p;
    tile_sum(sum, left, ld, x + j, ld, rows);
    for (int p = 0; p < TALL; p++)
        for (int q = 0; q < TILE; q++) h[(i + p) * ld + j + q] += sum[p][q];
}

/* Rows of length 1, or of zeros. */
static void add_chunk(Moments *s, int64_t block, const float *x, int64_t rows)
{
    float *h = s->second + block * s->ld * s->ld;
    for (int64_t i = 0; i < s->ld; i += TALL)
        for (int64_t j = i / TILE * TILE; j < s->ld; j += TILE) add_tile(h, s->ld, x, rows, i, j);
}

int64_t row_spread(uint32_t seed, int64_t k, int64_t taken, int64_t rows)
{
    int64_t from = k * rows / taken, to = (k + 1) * rows / taken;
    uint32_t r = (seed + (uint32_t)k) * 2654435769u;
    r = (r ^ r >> 15) * 2246822519u;
    return from + (int64_t)((r ^ r >> 13) % (uint32_t)(to - from));
}

bool row_is_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

double row_squares(const float *x, int64_t n)
{
    enum { APART = 4 }; /* sums of which none waits for another */
    double sum[APART] = {0};
    for (int64_t i = 0; i < n; i += APART)
        for (int64_t k = 0; k < (n - i < APART ? n - i : APART); k++) sum[k] += (double)x[i + k] * x[i + k];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Of a row: 1 / its length squared; 0 where it has none, or as good as none. */
static double share_of(const float *x, int64_t n)
{
    const double LEAST = 1e-30;
    double squares = row_squares(x, n);
    return squares > LEAST ? 1 / squares : 0;
}

/* Row number `row` to x, as it is; false: it says nothing. */
static bool take_row(Moments *s, const InputRows *r, int64_t block, int64_t row, float *x)
{
    input_row(r, block, row, x);
    memset(x + s->in, 0, sizeof *x * (size_t)(s->ld - s->in));
    return row_is_finite(x, s->in);
}

static void see(Moments *s, int64_t block, float *x)
{
    double *size = s->size + block * s->in, *sum = s->sum + block * s->in, by = sqrt(share_of(x, s->in));
    for (int64_t j = 0; j < s->in; j++) {
        size[j] += fabs((double)x[j]), sum[j] += (double)x[j];
        x[j] = (float)((double)x[j] * by);
    }
}

static void hold(Moments *s, const InputRows *r, int64_t taken)
{
    int64_t room = s->held_room - s->held_rows, some = taken < room ? taken : room;
    for (int64_t block = 0; block < s->blocks; block++)
        for (int64_t k = 0; k < some; k++) {
            int64_t at = block * s->held_room + s->held_rows + k;
            float *to = s->held + at * s->ld;
            if (take_row(s, r, block, row_spread(s->seed, k, some, r->rows), to)) s->held_share[at] = share_of(to, s->in);
            else memset(to, 0, sizeof *to * (size_t)s->ld);
        }
    s->held_rows += some;
}

void moments_add(Moments *s, const InputRows *r, int64_t most, bool held)
{
    int64_t taken = r->rows < most ? r->rows : most;
    if (held) hold(s, r, taken);
    else {
        Arena work = {0};
        float *x = NEW_ARRAY(&work, float, CHUNK * s->ld);
        for (int64_t block = 0; block < s->blocks; block++)
            for (int64_t at = 0; at < taken; at += CHUNK) {
                int64_t n = 0;
                for (int64_t k = at; k < taken && k < at + CHUNK; k++)
                    n += take_row(s, r, block, row_spread(s->seed, k, taken, r->rows), x + n * s->ld);
                for (int64_t k = 0; k < n; k++) see(s, block, x + k * s->ld);
                add_chunk(s, block, x, n);
            }
        s->rows += taken;
        arena_drop(&work);
    }
    s->seed++;
}

void moments_add_rows(Moments *s, const float *x, int64_t rows, bool held)
{
    Arena work = {0};
    RowMap map = {.matrices = 1, .per = rows, .matrix = NEW_ARRAY(&work, int64_t, s->blocks)};
    for (int64_t b = 0; b < s->blocks; b++) map.matrix[b] = b * rows * s->in;
    InputRows r = {.rows = rows, .blocks = s->blocks, .in = s->in, .map = &map, .x = x};
    moments_add(s, &r, rows, held);
    arena_drop(&work);
}

double *moments_squares(const Moments *s, Arena *mem)
{
    const double NOISE = 0.01;
    double *square = NEW_ARRAY(mem, double, s->blocks * s->in + 1);
    for (int64_t b = 0; b < s->blocks; b++) {
        double sum = 0, *of = square + b * s->in;
        for (int64_t j = 0; j < s->in; j++) of[j] = (double)s->second[(b * s->ld + j) * s->ld + j], sum += of[j];
        for (int64_t j = 0; j < s->in; j++) of[j] += NOISE * sum / (double)s->in;
    }
    return square;
}

float *moments_full(const Moments *s, Arena *mem)
{
    float *full = NEW_ARRAY(mem, float, s->blocks * s->in * s->in + 1), *to = full;
    const double *square = moments_squares(s, mem);
    for (int64_t b = 0; b < s->blocks; b++)
        for (int64_t i = 0; i < s->in; i++)
            for (int64_t j = 0; j < s->in; j++)
                *to++ = i == j ? (float)square[b * s->in + i]
                               : s->second[(b * s->ld + (i < j ? i : j)) * s->ld + (i < j ? j : i)];
    return full;
}

/* ---- products ---- */
static void product_tile(const float *x, int64_t ld, int rows, const float *panel, int64_t k, int n, float *y,
                         int64_t y_ld)
{
    float sum[TALL][TILE] = {{0}};
    const float *row[TALL];
    for (int p = 0; p < TALL; p++) row[p] = x + (p < rows ? p : 0) * ld;
    tile_sum(sum, row, 1, panel, TILE, k);
    for (int p = 0; p < rows; p++)
        for (int q = 0; q < n; q++) y[p * y_ld + q] += sum[p][q];
}

void rows_times(const float *x, int64_t rows, int64_t ld, const float *w, int64_t n, int64_t k, float *y)
{
    Arena work = {0};
    float *panel = NEW_ARRAY(&work, float, k * TILE + 1);
    for (int64_t j = 0; j < n; j += TILE) {
        int width = n - j < TILE ? (int)(n - j) : TILE;
        for (int64_t i = 0; i < k; i++)
            for (int q = 0; q < TILE; q++) panel[i * TILE + q] = q < width ? w[(j + q) * k + i] : 0;
        for (int64_t r = 0; r < rows; r += TALL)
            product_tile(x + r * ld, ld, rows - r < TALL ? (int)(rows - r) : TALL, panel, k, width, y + r * n + j, n);
    }
    arena_drop(&work);
}
