/* weights.c - see weights.h. Everything here is plain loops over rows and columns, in one order: the same weights give the same
 * codes on every machine. */
#include "passes/weights.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- the matrix ---- */

/* Offsets of all combinations of the axes of a set (bits), the last axis fastest; n of them. */
static int64_t *offsets_of(const Tensor *t, unsigned set, int64_t *n, Arena *mem)
{
    int64_t stride[MAX_RANK], step = 1;
    for (int d = t->rank; d-- > 0; step *= t->dim[d]) stride[d] = step;
    *n = 1;
    for (int d = 0; d < t->rank; d++)
        if (set >> d & 1) *n *= t->dim[d];
    int64_t *at = NEW_ARRAY(mem, int64_t, *n + 1);
    for (int64_t i = 0; i < *n; i++) {
        int64_t rest = i;
        for (int d = t->rank; d-- > 0;) {
            if (!(set >> d & 1)) continue;
            at[i] += rest % t->dim[d] * stride[d];
            rest /= t->dim[d];
        }
    }
    return at;
}

/* All sums of one offset of each list, those of the second fastest. */
static int64_t *offsets_join(const int64_t *a, int64_t na, const int64_t *b, int64_t nb, Arena *mem)
{
    int64_t *at = NEW_ARRAY(mem, int64_t, na * nb + 1);
    for (int64_t i = 0; i < na; i++)
        for (int64_t k = 0; k < nb; k++) at[i * nb + k] = a[i] + b[k];
    return at;
}

/* Groups of a convolution: its input has so many times the channels that its weights have. */
static int64_t groups_of(const Graph *g, const Node *n, int64_t channels)
{
    const Type *x = val_type(g, node_in(g, n, 0));
    int64_t all;
    if (!n->op->w_taps || !channels || !dim_is_const(g->module->dim, x->dim[axis_at(n->op->x_input, x->rank)], &all))
        return 1;
    return all / channels;
}

/* Rows may be neighbours in memory, of which a line holds some of each. */
enum { BLOCK = 16 };
static void block_copy(WeightMatrix *m, int64_t row, int64_t col)
{
    float part[BLOCK][BLOCK];
    const float *from = m->tensor->data;
    int64_t rows = m->out - row < BLOCK ? m->out - row : BLOCK, cols = m->in - col < BLOCK ? m->in - col : BLOCK;
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < rows; r++) part[r][c] = from[m->row[row + r] + m->col[col + c]];
    for (int64_t r = 0; r < rows; r++) memcpy(m->w + (row + r) * m->in + col, part[r], sizeof(float) * (size_t)cols);
}

WeightMatrix weight_matrix(const Graph *g, const Node *n, Arena *mem)
{
    const Tensor *t = graph_val(g, node_in(g, n, 1))->konst;
    int out = axis_at(n->op->w_channel, t->rank), in = axis_at(n->op->w_input, t->rank);
    unsigned taps = 0, batches = 0;
    for (int d = 0; d < t->rank; d++)
        if (d != out && d != in) *(n->op->w_taps && d >= n->op->w_taps ? &taps : &batches) |= 1u << d;
    WeightMatrix m = {.tensor = t, .channel_axis = out, .input_axis = in};
    int64_t outs, all_taps;
    const int64_t *batch_at = offsets_of(t, batches, &m.batches, mem), *out_at = offsets_of(t, 1u << out, &outs, mem),
                  *tap_at = offsets_of(t, taps, &all_taps, mem), *in_at = offsets_of(t, 1u << in, &m.channels, mem);
    m.out = m.batches * outs, m.in = all_taps * m.channels;
    m.row = offsets_join(batch_at, m.batches, out_at, outs, mem);
    m.col = offsets_join(tap_at, all_taps, in_at, m.channels, mem);
    m.blocks = m.batches * groups_of(g, n, m.channels);
    m.w = NEW_ARRAY(mem, float, m.out * m.in + 1);
    for (int64_t r = 0; r < m.out; r += BLOCK)
        for (int64_t c = 0; c < m.in; c += BLOCK) block_copy(&m, r, c);
    return m;
}

WeightMatrix weight_table(const Tensor *t, Arena *mem)
{
    WeightMatrix m = {.tensor = t, .input_axis = 1, .out = t->dim[0], .in = t->dim[1], .channels = t->dim[1], .batches = 1, .blocks = 1};
    assert(t->rank == 2 && t->type == DT_f32);
    m.row = NEW_ARRAY(mem, int64_t, m.out + 1), m.col = NEW_ARRAY(mem, int64_t, m.in + 1);
    for (int64_t r = 0; r < m.out; r++) m.row[r] = r * m.in;
    for (int64_t c = 0; c < m.in; c++) m.col[c] = c;
    m.w = arena_copy(mem, t->data, tensor_bytes(t));
    return m;
}

/* ---- codes ---- */
typedef struct Float8 {
    DType type;
    int most, places, least; /* binary places; the exponent of the smallest normal number */
} Float8;
static const Float8 float8s[] = {{DT_f8e4m3fn, 448, 3, -6}, {DT_f8e5m2, 57344, 2, -14}};

static const Float8 *float_of(const WeightForm *f) /* NULL: codes are integers */
{
    for (size_t i = 0; i < COUNT_OF(float8s); i++)
        if (float8s[i].type == f->code) return &float8s[i];
    return NULL;
}

int weight_code_most(const WeightForm *f) { return float_of(f) ? float_of(f)->most : (int)dtype_max(f->code); }
int weight_code_least(const WeightForm *f)
{
    if (float_of(f)) return -float_of(f)->most;
    return f->code == DT_i8 && !f->asymmetric ? -127 : (int)dtype_min(f->code);
}
int weight_code_middle(const WeightForm *f)
{
    return dtypes[f->code].cls == DC_UINT ? (weight_code_most(f) + 1) / 2 : 0;
}

double weight_bits(const WeightForm *f)
{
    enum { BYTE = 8, HALF = 16 }; /* usable() */
    int bits = dtypes[f->code].bits, scale = f->fine ? BYTE : HALF, zero = !f->asymmetric ? 0 : f->fine ? BYTE : bits;
    return bits + (f->group ? (scale + zero) / (double)f->group : 0);
}

float weight_code_number(const WeightForm *f, int code)
{
    uint8_t bits = (uint8_t)code;
    return float_of(f) ? (float)dtype_load(f->code, &bits, 0) : (float)code;
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

WeightCodes codes_new(const WeightMatrix *m, const WeightForm *f, Arena *mem)
{
    WeightCodes c = {.form = *f, .owners = m->out, .groups = 1};
    int64_t per_tap = f->group ? divide_up(m->channels, f->group) : 0;
    if (f->group) c.groups = m->channels ? m->in / m->channels * per_tap : 1;
    else c.owners = m->out / (m->batches ? m->batches : 1);
    c.group = NEW_ARRAY(mem, int32_t, m->in + 1);
    for (int64_t j = 0; f->group && j < m->in; j++)
        c.group[j] = (int32_t)(j / m->channels * per_tap + j % m->channels / f->group);
    c.code = NEW_ARRAY(mem, int16_t, m->out * m->in + 1);
    c.scale = NEW_ARRAY(mem, float, c.owners * c.groups + 1), c.zero = NEW_ARRAY(mem, float, c.owners * c.groups + 1);
    c.rows = m->out / (m->batches ? m->batches : 1);
    if (f->fine) c.scale_of = NEW_ARRAY(mem, float, c.rows + 1);
    return c;
}

/* How many weights of a row follow each other from column j on that have one grid. */
static int64_t run_from(const WeightMatrix *m, const WeightCodes *c, int64_t j)
{
    int64_t n = c->groups > 1 ? 1 : m->in - j;
    while (j + n < m->in && c->group[j + n] == c->group[j]) n++;
    return n;
}

/* ---- grids: the scale and zero point of a group from its extremes ---- */
static void extremes_add(Extremes *e, const float *w, int64_t n)
{
    enum { APART = 8 }; /* of which none waits for another */
    Extremes part[APART];
    for (int k = 0; k < APART; k++) part[k] = *e;
    for (int64_t i = 0; i < n; i += APART) {
        int64_t all = n - i < APART ? n - i : APART;
        for (int64_t k = 0; k < all; k++) {
            float x = w[i + k];
            part[k].lo = x < part[k].lo ? x : part[k].lo, part[k].hi = x > part[k].hi ? x : part[k].hi;
        }
    }
    for (int k = 0; k < APART; k++)
        e->lo = part[k].lo < e->lo ? part[k].lo : e->lo, e->hi = part[k].hi > e->hi ? part[k].hi : e->hi;
}

Extremes *codes_extremes(const WeightMatrix *m, const WeightCodes *c, Arena *mem)
{
    Extremes *e = NEW_ARRAY(mem, Extremes, c->owners * c->groups + 1);
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0, n; j < m->in; j += n)
            n = run_from(m, c, j), extremes_add(&e[codes_at(c, r, j)], m->w + r * m->in + j, n);
    return e;
}

#define ZERO_STEPS 16.0f  /* of fine zero points, in one step of the codes */
#define FLOAT_END 28      /* what the largest weight counts as a float8: far below the end of its numbers, which are as fine anywhere, so that f16 holds scales */
#define NO_WEIGHTS 1e-30f /* the scale of a group of zeros, until its neighbours give it one */

/* Where a grid from the least to the most code has its zero, so that it begins at lo. */
static float zero_at(const WeightForm *f, float lo, float scale)
{
    int least = weight_code_least(f), most = weight_code_most(f);
    float steps = f->fine ? ZERO_STEPS : 1, end = f->fine ? (float)least + 255 / ZERO_STEPS : (float)most;
    return fminf(end, fmaxf((float)least, rintf(((float)least - lo / scale) * steps) / steps));
}

/* Scales of groups are many: they are numbers that f16 holds, where those are fine enough, and not smaller, so that codes reach as far. */
static float usable(const WeightForm *f, float scale)
{
    enum { HALF_MOST = 65000 };
    const float LEAST_HALF = 0x1p-18f; /* steps are a 64th there */
    uint16_t half;
    if (!isnormal(scale)) return f->fine ? NO_WEIGHTS : 1;
    if (f->fine || !f->group || scale < LEAST_HALF || scale > HALF_MOST) return scale;
    dtype_store(DT_f16, &half, 0, (double)scale);
    if (dtype_load(DT_f16, &half, 0) < (double)scale) half++;
    return (float)dtype_load(DT_f16, &half, 0);
}


/* Symmetric codes reach one step further down than up; the larger extreme gets that step, with a negative scale where it is positive, or (turned)
 * it does not. */
static Grid grid_of(const WeightForm *f, Extremes e, bool turned)
{
    int least = weight_code_least(f), most = weight_code_most(f), middle = weight_code_middle(f);
    if (f->asymmetric) {
        float s = usable(f, (float)(((double)e.hi - e.lo) / (most - least)));
        return (Grid){s, zero_at(f, e.lo, s)};
    }
    float size = fmaxf(-e.lo, e.hi);
    if (float_of(f)) return (Grid){usable(f, size / FLOAT_END), 0};
    if (middle - least == most - middle) return (Grid){usable(f, size / (float)(most - middle)), (float)middle};
    float s = usable(f, size / (float)(turned ? most - middle : middle - least));
    return (Grid){(e.hi > -e.lo) != turned ? -s : s, (float)middle};
}

static int candidates(const WeightForm *f)
{
    bool even = weight_code_middle(f) - weight_code_least(f) == weight_code_most(f) - weight_code_middle(f);
    return f->asymmetric || even ? GRID_STEPS : 2 * GRID_STEPS;
}

static Extremes shrunk(const WeightForm *f, Extremes e, int step)
{
    float part = (float)(step % GRID_STEPS) / GRID_STEPS, by = float_of(f) ? 1 + part : 1 - part / 2;
    return (Extremes){e.lo * by, e.hi * by};
}

Grid grid_candidate(const WeightForm *f, Extremes e, int step) { return grid_of(f, shrunk(f, e, step), step >= GRID_STEPS); }

int grid_code(const WeightForm *f, Grid g, float w)
{
    uint8_t bits;
    if (float_of(f)) return dtype_store(f->code, &bits, 0, (double)w / g.scale), bits;
    double least = weight_code_least(f), most = weight_code_most(f), code = (double)w / (double)g.scale + (double)g.zero;
    code = code < most ? code : most; /* NaN too */
    return (int)rint(code > least ? code : least);
}

int codes_nearest(const WeightCodes *c, int64_t at, float w)
{
    return grid_code(&c->form, (Grid){c->scale[at], c->zero[at]}, w);
}

#define WHOLE 0x1.8p52 /* in front of a double, it leaves no binary places */

/* grid_code() of n neighbours. */
static void round_run(const WeightForm *f, Grid g, const float *w, int64_t n, int16_t *to)
{
    double least = weight_code_least(f), most = weight_code_most(f), scale = (double)g.scale, zero = (double)g.zero;
    bool whole = !float_of(f);
    for (int64_t j = 0; whole && j < n; j++) {
        double code = (double)w[j] / scale + zero;
        code = code < most ? code : most, code = code > least ? code : least;
        to[j] = (int16_t)(code + WHOLE - WHOLE);
    }
    for (int64_t j = 0; !whole && j < n; j++) to[j] = (int16_t)grid_code(f, g, w[j]);
}

void codes_round(const WeightMatrix *m, WeightCodes *c)
{
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0, n; j < m->in; j += n) {
            int64_t at = codes_at(c, r, j), i = r * m->in + j;
            n = run_from(m, c, j), round_run(&c->form, (Grid){c->scale[at], c->zero[at]}, m->w + i, n, c->code + i);
        }
}

static void set_grid(WeightCodes *c, int64_t at, Grid g) { c->scale[at] = g.scale, c->zero[at] = g.zero; }

float grid_value(const WeightForm *f, Grid g, int code) { return (weight_code_number(f, code) - g.zero) * g.scale; }

void codes_row(const WeightMatrix *m, const WeightCodes *c, int64_t row, float *to)
{
    const int16_t *code = c->code + row * m->in;
    bool whole = !float_of(&c->form);
    for (int64_t j = 0, n; j < m->in; j += n) {
        int64_t at = codes_at(c, row, j);
        Grid g = {c->scale[at], c->zero[at]};
        n = run_from(m, c, j);
        for (int64_t k = j; whole && k < j + n; k++) to[k] = ((float)code[k] - g.zero) * g.scale;
        for (int64_t k = j; !whole && k < j + n; k++) to[k] = grid_value(&c->form, g, code[k]);
    }
}

static DType scale_code(const WeightForm *f) { return f->asymmetric ? DT_u8 : DT_i8; } /* a symmetric grid may be turned: grid_of() */

/* Ends of symmetric grids were chosen together with what they clip, so the scale may become a little smaller as well. */
static Grid turned_settled(Grid g, float of)
{
    float most = (float)dtype_max(DT_i8), code = fminf(most, fmaxf(1, rintf(fabsf(g.scale) / of)));
    return (Grid){copysignf(code * of, g.scale), g.zero};
}

Grid grid_settled(const WeightCodes *c, int64_t at, Grid g)
{
    if (!c->scale_of) return g;
    if (!c->form.asymmetric) return turned_settled(g, c->scale_of[at / c->groups % c->rows]);
    float middle = (float)(weight_code_least(&c->form) + weight_code_most(&c->form)) / 2;
    float half = (float)(weight_code_most(&c->form) - weight_code_least(&c->form)) / 2;
    float of = c->scale_of[at / c->groups % c->rows], centre = (middle - g.zero) * g.scale;
    float scale = fminf(255, fmaxf(1, ceilf(g.scale / of - 1e-3f))) * of;
    bool empty = g.scale <= NO_WEIGHTS; /* its zeros are exact */
    return (Grid){scale, empty ? floorf(middle) : zero_at(&c->form, centre - half * scale, scale)};
}

/* Scales become codes of 8 bits, those beside zero points not smaller than they were; a grid that grows keeps its middle. */
static void settle_scales(WeightCodes *c)
{
    for (int64_t at = 0; c->scale_of && at < c->owners * c->groups; at++) {
        float *most = &c->scale_of[at / c->groups % c->rows], size = fabsf(c->scale[at]), step = size / (float)dtype_max(scale_code(&c->form));
        if (size > NO_WEIGHTS && step > *most) *most = step;
    }
    for (int64_t r = 0; c->scale_of && r < c->rows; r++)
        if (!isnormal(c->scale_of[r])) c->scale_of[r] = 1;
    for (int64_t at = 0; c->scale_of && at < c->owners * c->groups; at++)
        set_grid(c, at, grid_settled(c, at, (Grid){c->scale[at], c->zero[at]}));
}

/* The float8 nearest to x: a large number in front of x leaves it as many binary places as its exponent has. */
static double float_near(const Float8 *t, double x)
{
    enum { PLACES = 52, BIAS = 1023 };
    const uint64_t exponents = (uint64_t)0x7ff << PLACES, least = (uint64_t)(BIAS + t->least) << PLACES, half = (uint64_t)1 << (PLACES - 1);
    uint64_t bits;
    double large;
    memcpy(&bits, &x, sizeof bits);
    bits &= exponents;
    bits = ((bits > least ? bits : least) + ((uint64_t)(PLACES - t->places) << PLACES)) | half; /* no sum falls below a power of two */
    memcpy(&large, &bits, sizeof large);
    return (x + large) - large;
}

/* The square error of n neighbours on a grid, each times its weight (NULL: 1). Codes are those of grid_code(): the large numbers make a
 * double whole, or a float8. */
static double square_error(const WeightForm *f, Grid g, const float *w, const double *weight, int64_t n)
{
    const double least = weight_code_least(f), most = weight_code_most(f), scale = (double)g.scale,
                 zero = (double)g.zero;
    const Float8 *floats = float_of(f);
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double code = (double)w[j] / scale + zero;
        code = code < most ? code : most, code = code > least ? code : least;
        double e = ((floats ? float_near(floats, code) : (code + WHOLE) - WHOLE) - zero) * scale - (double)w[j];
        sum += e * e * (weight ? weight[j] : 1);
    }
    return sum;
}

/* The square errors of every group on the grids g, a column's times its weight (NULL: 1). */
static void add_errors(const WeightMatrix *m, const WeightCodes *c, const Grid *g, const double *weight, double *error)
{
    for (int64_t r = 0; r < m->out; r++) {
        const double *of = weight ? weight + r / (m->out / m->blocks) * m->in : NULL;
        for (int64_t j = 0, n; j < m->in; j += n) {
            int64_t at = codes_at(c, r, j);
            n = run_from(m, c, j);
            error[at] += square_error(&c->form, g[at], m->w + r * m->in + j, of ? of + j : NULL, n);
        }
    }
}

/* Sums over the weights w of a group and their codes q, each times the weight of its column. */
typedef struct Fit {
    double one, w, q, qq, qw;
} Fit;

static void fit_add(const WeightMatrix *m, const WeightCodes *c, const double *weight, Fit *fit)
{
    double middle = c->form.asymmetric ? 0 : weight_code_middle(&c->form);
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0; j < m->in; j++) {
            int64_t at = codes_at(c, r, j);
            Fit *x = &fit[at];
            double w = (double)m->w[r * m->in + j], q = codes_nearest(c, at, m->w[r * m->in + j]) - middle;
            double h = weight ? weight[r / (m->out / m->blocks) * m->in + j] : 1;
            x->one += h, x->w += h * w, x->q += h * q, x->qq += h * q * q, x->qw += h * q * w;
        }
}

/* The grid on which these codes are nearest to the weights; g where they do not say. */
static Grid fitted(const WeightForm *f, Grid g, const Fit *x)
{
    double spread = f->asymmetric ? x->qq * x->one - x->q * x->q : x->qq;
    double scale = (f->asymmetric ? x->qw * x->one - x->q * x->w : x->qw) / spread;
    if (!(spread > 0) || !isnormal((float)scale) || (scale < 0) != (g.scale < 0)) return g;
    float s = usable(f, (float)fabs(scale));
    if (!f->asymmetric) return (Grid){scale < 0 ? -s : s, g.zero};
    double offset = (x->w - (double)s * x->q) / x->one;
    return (Grid){s, zero_at(f, (float)(offset + (double)s * weight_code_least(f)), s)};
}

/* Grids that compete for a group: both ends shrunk, of asymmetric codes then either end alone, the other one staying where it was best, and at
 * last the grid that fits the codes of the best one, a few times. */
enum { END_STEPS = 10, FITS = 3 };

static int competitors(const WeightForm *f) { return candidates(f) + (f->asymmetric ? 2 * END_STEPS : 0); }

static Extremes ends_tried(const WeightForm *f, Extremes whole, Extremes best, int step)
{
    int end = step - candidates(f);
    float by = 1 - (float)(end % END_STEPS) / END_STEPS / 2;
    if (end < 0) return shrunk(f, whole, step);
    return end < END_STEPS ? (Extremes){best.lo, whole.hi * by} : (Extremes){whole.lo * by, best.hi};
}

/* Clipping the few largest weights gives the others a finer grid. */
WeightCodes codes_on_grids(const WeightMatrix *m, const WeightForm *f, const double *weight, Arena *mem)
{
    Arena work = {0};
    WeightCodes c = codes_new(m, f, mem);
    int64_t n = c.owners * c.groups;
    const Extremes *e = codes_extremes(m, &c, &work);
    double *best = NEW_ARRAY(&work, double, n + 1), *error = NEW_ARRAY(&work, double, n + 1);
    Grid *g = NEW_ARRAY(&work, Grid, n + 1);
    Extremes *ends = arena_copy(&work, e, sizeof *e * (size_t)(n + 1)); /* the best */
    Fit *fit = NEW_ARRAY(&work, Fit, n + 1);
    int both = candidates(f), all = competitors(f), fits = dtype_is_int(f->code) ? FITS : 0;
    for (int step = 0; step < all + fits; step++) {
        if (step >= all) memset(fit, 0, sizeof *fit * (size_t)n), fit_add(m, &c, weight, fit);
        for (int64_t at = 0; at < n; at++) {
            if (step < both) g[at] = grid_candidate(f, e[at], step);
            else if (step < all) g[at] = grid_of(f, ends_tried(f, e[at], ends[at], step), false);
            else g[at] = fitted(f, (Grid){c.scale[at], c.zero[at]}, &fit[at]);
            error[at] = 0;
        }
        add_errors(m, &c, g, weight, error);
        for (int64_t at = 0; at < n; at++) {
            if (step && !(error[at] < best[at])) continue;
            best[at] = error[at], set_grid(&c, at, g[at]);
            if (step < all) ends[at] = ends_tried(f, e[at], ends[at], step);
        }
    }
    settle_scales(&c);
    arena_drop(&work);
    return c;
}

/* ---- methods ---- */
static WeightCodes find_rtn(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    WeightCodes c = codes_new(m, f, mem);
    const Extremes *e = codes_extremes(m, &c, mem);
    (void)s;
    for (int64_t at = 0; at < c.owners * c.groups; at++) set_grid(&c, at, grid_of(f, e[at], false));
    settle_scales(&c);
    codes_round(m, &c);
    return c;
}

/* ---- windows: what lies under one is alike, the more the nearer. So it is not the squares of the errors of its taps that count but those of
 * what they make of such values together: sum e[i] e[j] ALIKE^distance. ---- */
enum { MOST_TAPS = 256 }; /* time and memory grow with their square */
typedef struct Taps {
    const WeightMatrix *m;
    int64_t n;       /* of one channel */
    double *alike;   /* [n][n] */
    double *off, *pull; /* errors in steps; what they make of values like those under each tap */
    int *code, *best;
} Taps;

static Taps taps_new(const WeightMatrix *m, int64_t taps, Arena *mem)
{
    static const double ALIKE = 0.9;
    Taps t = {.m = m, .n = taps};
    t.alike = NEW_ARRAY(mem, double, t.n * t.n + 1), t.off = NEW_ARRAY(mem, double, t.n + 1), t.pull = NEW_ARRAY(mem, double, t.n + 1);
    t.code = NEW_ARRAY(mem, int, t.n + 1), t.best = NEW_ARRAY(mem, int, t.n + 1);
    for (int64_t i = 0; i < t.n; i++)
        for (int64_t j = 0; j < t.n; j++) {
            int64_t a = i, b = j, apart = 0;
            for (int d = m->tensor ? m->tensor->rank : 0; d-- > 2; a /= m->tensor->dim[d], b /= m->tensor->dim[d])
                apart += llabs(a % m->tensor->dim[d] - b % m->tensor->dim[d]);
            t.alike[i * t.n + j] = pow(ALIKE, (double)apart);
        }
    return t;
}

/* Codes go to the other side of their weight as long as that makes less of it all. Yields what is left, in squares of weights. */
static double taps_settle(Taps *t, const WeightForm *f, const float *w, Grid g)
{
    double sum = 0;
    for (int64_t i = 0; i < t->n; i++) {
        t->code[i] = grid_code(f, g, w[i * t->m->channels]);
        t->off[i] = ((double)grid_value(f, g, t->code[i]) - (double)w[i * t->m->channels]) / (double)g.scale;
    }
    for (int64_t i = 0; i < t->n; i++) {
        t->pull[i] = 0;
        for (int64_t j = 0; j < t->n; j++) t->pull[i] += t->alike[i * t->n + j] * t->off[j];
    }
    for (int64_t turn = 0; turn < 4 * t->n; turn++) {
        int64_t best = -1;
        double least = -1e-6;
        for (int64_t i = 0; i < t->n; i++) {
            int to = t->off[i] > 0 ? -1 : 1;
            double change = 2 * to * t->pull[i] + 1;
            bool may = t->code[i] + to >= weight_code_least(f) && t->code[i] + to <= weight_code_most(f);
            if (may && change < least) least = change, best = i;
        }
        if (best < 0) break;
        int to = t->off[best] > 0 ? -1 : 1;
        t->code[best] += to, t->off[best] += to;
        for (int64_t i = 0; i < t->n; i++) t->pull[i] += to * t->alike[i * t->n + best];
    }
    for (int64_t i = 0; i < t->n; i++) sum += t->off[i] * t->pull[i];
    return sum * (double)g.scale * (double)g.scale;
}

/* Scales a little larger than the nearest codes have compete: where they are the only ones of a window, one that suits it is among them. */
static void taps_round(Taps *t, WeightCodes *c, int64_t row, int64_t channel)
{
    enum { SCALES = 16 };
    const WeightForm *f = &c->form;
    int64_t at = codes_at(c, row, channel);
    Grid whole = {c->scale[at], c->zero[at]}, best = whole;
    bool alone = t->m->channels == 1 && t->m->batches == 1 && !f->group && !f->asymmetric;
    double least = INFINITY;
    for (int i = 0; i < (alone ? SCALES : 1); i++) {
        Grid g = {whole.scale * (float)weight_code_most(f) / (float)(weight_code_most(f) - i), whole.zero};
        double left = taps_settle(t, f, t->m->w + row * t->m->in + channel, g);
        if (!(left < least)) continue;
        least = left, best = g;
        memcpy(t->best, t->code, sizeof *t->code * (size_t)t->n);
    }
    if (!(least < INFINITY)) return;
    set_grid(c, at, best);
    for (int64_t i = 0; i < t->n; i++) c->code[row * t->m->in + i * t->m->channels + channel] = (int16_t)t->best[i];
}

static WeightCodes find_even(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    Arena work = {0};
    WeightCodes c = find_rtn(m, f, s, mem);
    int64_t taps = m->channels ? m->in / m->channels : 0;
    if (dtype_is_int(f->code) && !f->group && taps > 1 && taps <= MOST_TAPS) {
        Taps t = taps_new(m, taps, &work);
        for (int64_t r = 0; r < m->out; r++)
            for (int64_t i = 0; i < m->channels; i++) taps_round(&t, &c, r, i);
    }
    arena_drop(&work);
    return c;
}

static WeightCodes find_mse(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    WeightCodes c = codes_on_grids(m, f, NULL, mem);
    (void)s;
    codes_round(m, &c);
    return c;
}

static WeightCodes find_clipped(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    Arena work = {0};
    WeightCodes c = codes_on_grids(m, f, s ? moments_squares(s, &work) : NULL, mem);
    codes_round(m, &c);
    arena_drop(&work);
    return c;
}

static const WeightMethod methods[] = {
    {"rtn", "to the nearest code of a grid from the least to the largest weight", 0, find_rtn, NULL},
    {"mse", "to the nearest code of the grid with the least square error: the largest weights may be clipped", 0, find_mse,
     NULL},
    {"even", "up or down, so that the errors of the taps of a window cancel for what is alike", 0, find_even, NULL},
    {"seqmse", "the same by the error of the outputs, group after group", WEIGHT_MOMENTS, weights_seqmse, NULL},
    {"gptq", "one input after the other, the later ones make up for the error so far (Frantar et al. 2022)", WEIGHT_MOMENTS,
     weights_gptq, NULL},
    {"adaround", "down or up, learned by gradients of the error of the outputs (Nagel et al. 2020)", WEIGHT_MOMENTS, weights_adaround, NULL},
    {"awq", "input channels with large values get larger weights, which are rounded finer, and smaller values (Lin et al. 2023)",
     WEIGHT_MOMENTS, find_clipped, weights_awq},
};

const WeightMethod *weight_method_at(uint32_t i) { return i < COUNT_OF(methods) ? &methods[i] : NULL; }

const WeightMethod *weight_method_find(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(methods); i++)
        if (!strcmp(methods[i].name, name)) return &methods[i];
    return NULL;
}

const WeightMethod *weight_method_blind(const WeightMethod *how)
{
    if (!how) return &methods[0];
    return how->needs ? weight_method_find("mse") : how;
}

/* ---- judging ---- */
double weight_error(const WeightMatrix *m, const WeightCodes *c, const Moments *s)
{
    Arena work = {0};
    int64_t out = m->out / m->blocks, many = out * m->in;
    float *off = NEW_ARRAY(&work, float, many + 1), *y = NEW_ARRAY(&work, float, s->held_rows * out + 1),
          *e = NEW_ARRAY(&work, float, s->held_rows * out + 1);
    double signal = 0, noise = 0;
    for (int64_t b = 0; b < m->blocks; b++) {
        const float *x = s->held + b * s->held_room * s->ld, *w = m->w + b * many;
        for (int64_t r = 0; r < out; r++) codes_row(m, c, b * out + r, off + r * m->in);
        for (int64_t i = 0; i < many; i++) off[i] = w[i] - off[i];
        memset(y, 0, sizeof *y * (size_t)(s->held_rows * out)), memset(e, 0, sizeof *e * (size_t)(s->held_rows * out));
        rows_times(x, s->held_rows, s->ld, w, out, m->in, y);
        rows_times(x, s->held_rows, s->ld, off, out, m->in, e);
        for (int64_t r = 0; r < s->held_rows; r++) {
            double share = s->held_share[b * s->held_room + r];
            signal += share * row_squares(y + r * out, out), noise += share * row_squares(e + r * out, out);
        }
    }
    arena_drop(&work);
    return signal > 0 ? sqrt(noise / signal) : (double)NAN;
}

float *weight_lost(const WeightMatrix *m, const WeightCodes *c, const Moments *s, Arena *mem)
{
    Arena work = {0};
    float *lost = NEW_ARRAY(mem, float, m->out + 1), *becomes = NEW_ARRAY(&work, float, m->in + 1);
    for (int64_t r = 0; r < m->out; r++) {
        double sum = 0;
        const double *of = s->sum + r / (m->out / m->blocks) * m->in;
        codes_row(m, c, r, becomes);
        for (int64_t j = 0; j < m->in; j++)
            sum += ((double)m->w[r * m->in + j] - (double)becomes[j]) * of[j] / (double)s->rows;
        lost[r] = (float)sum;
    }
    arena_drop(&work);
    return lost;
}

double weight_sqnr(const WeightMatrix *m, const WeightCodes *c)
{
    Arena work = {0};
    double signal = 0, noise = 0;
    float *off = NEW_ARRAY(&work, float, m->in + 1);
    for (int64_t r = 0; r < m->out; r++) {
        const float *w = m->w + r * m->in;
        codes_row(m, c, r, off);
        for (int64_t j = 0; j < m->in; j++) off[j] -= w[j];
        signal += row_squares(w, m->in), noise += row_squares(off, m->in);
    }
    arena_drop(&work);
    return 10 * log10(signal / noise);
}

const char weight_no_better[] = "on rows it has not seen the method does no better than rounding to nearest";

const char *weight_unseen(const Moments *s)
{
    if (!s) return "its inputs are too many for second moments";
    return s->rows && s->held_rows ? NULL : "no calibration sample reached it";
}

void weights_rounded(WeightMatrix *m, const WeightForm *f)
{
    Arena work = {0};
    const WeightCodes c = find_rtn(m, f, NULL, &work);
    for (int64_t r = 0; r < m->out; r++) codes_row(m, &c, r, m->w + r * m->in);
    arena_drop(&work);
}

/* By a method, or the nearest where it does worse or statistics say nothing. */
static WeightChoice choose(const WeightMethod *how, const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    WeightChoice c = {.error_nearest = (double)NAN, .error = (double)NAN};
    Arena work = {0};
    if (!(how->needs & WEIGHT_MOMENTS)) return c.codes = how->find(m, f, s, mem), c;
    if ((c.why = weight_unseen(s))) return c.codes = find_rtn(m, f, NULL, mem), c;
    const WeightCodes nearest = find_rtn(m, f, NULL, &work);
    c.error_nearest = weight_error(m, &nearest, s);
    arena_drop(&work);
    c.codes = how->find(m, f, s, mem), c.error = weight_error(m, &c.codes, s);
    if (!(c.error < c.error_nearest)) c.codes = find_rtn(m, f, NULL, mem), c.why = weight_no_better;
    return c.lost = weight_lost(m, &c.codes, s, mem), c;
}

WeightChoice weight_choose(const WeightMethod *how, const WeightMatrix *m, const WeightForm *f, const Moments *s,
                           Arena *mem)
{
    WeightChoice c = choose(how, m, f, s, mem);
    return c.sqnr = weight_sqnr(m, &c.codes), c;
}

/* ---- as tensors ---- */
/* Where the scale of a row and a group lies in its tensor: like the weights, with groups for input channels. */
static Tensor *scale_tensor(const WeightMatrix *m, const WeightCodes *c, DType type, Arena *mem)
{
    if (!c->form.group) return tensor_new(mem, type, 1, &c->owners);
    int64_t dim[MAX_RANK];
    memcpy(dim, m->tensor->dim, sizeof dim);
    dim[m->input_axis] = divide_up(dim[m->input_axis], c->form.group);
    return tensor_new(mem, type, m->tensor->rank, dim);
}

/* The number of the scale that belongs to element i of the codes. */
static int64_t scale_at(const CodeTensors *t, int64_t i)
{
    int64_t at = 0, step = 1;
    for (int d = t->code->rank; d-- > 0; i /= t->code->dim[d]) {
        int64_t index = i % t->code->dim[d];
        if (!t->block && d == t->axis) return index;
        if (!t->block) continue;
        at += (d == t->axis ? index / t->block : index) * step;
        step *= t->scale->dim[d];
    }
    return at;
}

CodeTensors weight_tensors(const WeightMatrix *m, const WeightCodes *c, Arena *mem)
{
    bool grouped = c->form.group != 0, zeros = c->form.asymmetric || weight_code_middle(&c->form);
    CodeTensors t = {.code = tensor_new(mem, c->form.code, m->tensor->rank, m->tensor->dim),
                     .scale = scale_tensor(m, c, DT_f32, mem),
                     .zero = zeros ? scale_tensor(m, c, c->form.fine && c->form.asymmetric ? DT_f32 : c->form.code, mem) : NULL,
                     .axis = grouped ? m->input_axis : m->channel_axis,
                     .block = c->form.group,
                     .scale_axis = m->channel_axis};
    if (c->scale_of) {
        t.scale_code = scale_tensor(m, c, scale_code(&c->form), mem), t.scale_of = tensor_new(mem, DT_f32, 1, &c->rows);
        memcpy((void *)t.scale_of->data, c->scale_of, tensor_bytes(t.scale_of));
    }
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0, n; j < m->in; j += n) {
            int64_t from = codes_at(c, r, j), at = scale_at(&t, m->row[r] + m->col[j]);
            n = run_from(m, c, j);
            for (int64_t k = j; k < j + n; k++)
                ((int8_t *)(void *)t.code->data)[m->row[r] + m->col[k]] = (int8_t)c->code[r * m->in + k];
            ((float *)(void *)t.scale->data)[at] = c->scale[from];
            if (zeros) dtype_store(t.zero->type, (void *)t.zero->data, at, (double)c->zero[from]);
            if (t.scale_code)
                dtype_store(t.scale_code->type, (void *)t.scale_code->data, at, rint((double)c->scale[from] / c->scale_of[r % c->rows]));
        }
    return t;
}

Tensor *code_values(const CodeTensors *t, Arena *mem)
{
    enum { CODES = 256 };
    Tensor *v = tensor_new(mem, DT_f32, t->code->rank, t->code->dim);
    double number[CODES];
    assert(dtypes[t->code->type].bytes == 1);
    for (int i = 0; i < CODES; i++) number[i] = dtype_load(t->code->type, &(uint8_t){(uint8_t)i}, 0);
    int64_t run = 1; /* so many neighbours have a scale, without blocks */
    for (int d = t->axis + 1; !t->block && d < t->code->rank; d++) run *= t->code->dim[d];
    for (int64_t i = 0, at = 0, n = tensor_count(v); i < n;
         i += run, at = at + 1 < t->code->dim[t->axis] ? at + 1 : 0) {
        if (t->block) at = scale_at(t, i);
        double zero = t->zero ? dtype_load(t->zero->type, t->zero->data, at) : 0;
        float scale = ((const float *)t->scale->data)[at];
        for (int64_t k = i; k < i + run; k++)
            ((float *)(void *)v->data)[k] = (float)(number[((const uint8_t *)t->code->data)[k]] - zero) * scale;
    }
    return v;
}
