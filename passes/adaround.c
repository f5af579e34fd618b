/* adaround.c - whether a weight is rounded down or up is learned: from the error that the layer's outputs have, by gradients.
 * Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".
 *
 * A weight lies between two neighbouring values of its grid, which is fixed before. It becomes the lower one plus h(v) times their distance, where
 * h is a sigmoid that reaches 0 and 1 (rectified), and v is learned: what is minimized is the square error of the outputs, by second moments
 * of the inputs, plus a term that draws every h to 0 or 1, those near the ends at first (a large exponent leaves the middle flat), all in
 * the end. With the moments of all rows gradients are exact: no batches are drawn, far fewer steps are needed than with them, and since
 * the weights as they are have no error, nothing is gained by steps without the second term. */
#include "passes/weights.h"
#include <math.h>

enum { STEPS = 200, ROWS = 64 };
static const float LOW = -0.1f, HIGH = 1.1f; /* the sigmoid is stretched to these, and cut at 0 and 1 */
static const float PULL = 0.2f, FIRST = 8, LAST = 2;        /* the second term: its weight, and its exponents */
static const float RATE = 0.2f, FADE1 = 0.9f, FADE2 = 0.999f; /* of Adam */

typedef struct Learner { /* ROWS rows of a block, each array [ROWS][in] */
    const float *h;      /* second moments of the block */
    int64_t in, rows;
    int16_t *code;       /* the lower one of each weight */
    float *low, *step;   /* its value less the weight, and the distance to the next */
    float *v, *speed, *size; /* what is learned, and means of its gradients and of their squares */
    float *off, *y;      /* what the weights are off now, and that times the moments */
    float norm[ROWS];    /* a row's error is measured in this */
} Learner;

/* ---- neighbours on a grid ---- */
/* The code whose number is next above. Bits of floats count down where the sign is set. */
static int code_above(const WeightForm *f, int code)
{
    enum { SIGN = 0x80 };
    if (!dtype_is_float(f->code)) return code + 1;
    uint8_t bits = (uint8_t)code;
    return !(bits & SIGN) ? bits + 1 : bits == SIGN ? 1 : bits - 1;
}

static int code_below(const WeightForm *f, int code)
{
    enum { SIGN = 0x80 };
    if (!dtype_is_float(f->code)) return code - 1;
    uint8_t bits = (uint8_t)code;
    return bits & SIGN && bits != SIGN ? bits + 1 : bits & ~SIGN ? bits - 1 : SIGN | 1;
}

/* The lower of the two codes around w, in the grid's own direction: its scale may be negative. */
static int lower_code(const WeightForm *f, Grid g, float w)
{
    int code = grid_code(f, g, w);
    bool above = (grid_value(f, g, code) > w) != (g.scale < 0);
    float number = weight_code_number(f, code);
    if (number >= (float)weight_code_most(f) || (above && number > (float)weight_code_least(f))) return code_below(f, code);
    return code;
}

/* ---- one row's weights ---- */
static float rectified(float v) { return fminf(1, fmaxf(0, LOW + (HIGH - LOW) / (1 + expf(-v)))); }

static void learn_from(Learner *l, const WeightMatrix *m, const WeightCodes *c, int64_t first, int64_t r)
{
    static const float EDGE = 0.01f;
    double norm = 0;
    for (int64_t j = 0; j < l->in; j++) {
        int64_t at = r * l->in + j, grid = codes_at(c, first + r, j);
        Grid g = {c->scale[grid], c->zero[grid]};
        float w = m->w[(first + r) * l->in + j];
        int code = lower_code(&c->form, g, w);
        l->code[at] = (int16_t)code, l->low[at] = grid_value(&c->form, g, code) - w;
        l->step[at] = grid_value(&c->form, g, code_above(&c->form, code)) - w - l->low[at];
        float part = fminf(1 - EDGE, fmaxf(EDGE, -l->low[at] / l->step[at]));
        l->v[at] = -logf((HIGH - LOW) / (part - LOW) - 1), l->speed[at] = l->size[at] = 0;
        norm += (double)l->h[j * (l->in + 1)] * l->step[at] * l->step[at];
    }
    l->norm[r] = norm > 0 ? (float)(norm / (double)l->in) : 1;
}

/* One step of a row. power: the exponent; known: how much of the means is not what they began with. */
static void learn_row(Learner *l, int64_t r, float power, float known1, float known2)
{
    for (int64_t at = r * l->in; at < (r + 1) * l->in; at++) {
        float s = 1 / (1 + expf(-l->v[at])), h = LOW + (HIGH - LOW) * s, gradient = 0;
        if (h > 0 && h < 1) {
            float side = 2 * h - 1, error = 2 * l->y[at] * l->step[at] / l->norm[r];
            float draw = 2 * PULL * power * copysignf(powf(fabsf(side), power - 1), side);
            gradient = (error - draw) * (HIGH - LOW) * s * (1 - s);
        }
        l->speed[at] = FADE1 * l->speed[at] + (1 - FADE1) * gradient;
        l->size[at] = FADE2 * l->size[at] + (1 - FADE2) * gradient * gradient;
        l->v[at] -= RATE * (l->speed[at] / known1) / (sqrtf(l->size[at] / known2) + 1e-8f);
    }
}

static void learn(Learner *l)
{
    float left1 = 1, left2 = 1;
    for (int step = 0; step < STEPS; step++) {
        float power = FIRST + (LAST - FIRST) * (float)step / STEPS;
        for (int64_t i = 0; i < l->rows * l->in; i++) l->off[i] = l->low[i] + rectified(l->v[i]) * l->step[i], l->y[i] = 0;
        rows_times(l->off, l->rows, l->in, l->h, l->in, l->in, l->y);
        left1 *= FADE1, left2 *= FADE2;
        for (int64_t r = 0; r < l->rows; r++) learn_row(l, r, power, 1 - left1, 1 - left2);
    }
}

WeightCodes weights_adaround(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    Arena work = {0};
    WeightCodes c = codes_on_grids(m, f, moments_squares(s, &work), mem);
    int64_t n = ROWS * m->in + 1, out = m->out / m->blocks;
    const float *h = moments_full(s, &work);
    Learner l = {.in = m->in, .code = NEW_ARRAY(&work, int16_t, n)};
    float **of[] = {&l.low, &l.step, &l.v, &l.speed, &l.size, &l.off, &l.y};
    for (size_t i = 0; i < COUNT_OF(of); i++) *of[i] = NEW_ARRAY(&work, float, n);
    for (int64_t first = 0; first < m->out; first += l.rows) {
        int64_t left = out - first % out;
        l.rows = left < ROWS ? left : ROWS, l.h = h + first / out * m->in * m->in;
        for (int64_t r = 0; r < l.rows; r++) learn_from(&l, m, &c, first, r);
        learn(&l);
        for (int64_t i = 0; i < l.rows * m->in; i++)
            c.code[first * m->in + i] = (int16_t)(l.v[i] < 0 ? l.code[i] : code_above(f, l.code[i]));
    }
    arena_drop(&work);
    return c;
}
