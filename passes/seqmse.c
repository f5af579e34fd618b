/* seqmse.c - grids by what they do to the outputs: of every group the shrunk grids compete in the square error of the layer's outputs, with
 * the groups before it rounded already and those behind it exact. The codes are then the nearest.
 * Source: the sequential MSE search of AIMET (Qualcomm), with second moments in place of batches of inputs. */
#include "passes/weights.h"

typedef struct Search {
    const WeightMatrix *m;
    WeightCodes *c;
    const Extremes *extremes;
    const float *h; /* [blocks][in][in], both triangles */
    float *off;   /* [out][in]: what the groups chosen so far are off, and zeros */
    float *tried; /* [GRID_STEPS][in] */
    float *y;     /* [in][GRID_STEPS] */
} Search;

/* One that has a code for its scale, where scales are codes: multiples of what the whole grids need. */
static Grid candidate(const Search *s, int64_t at, int step)
{
    return grid_settled(s->c, at, grid_candidate(&s->c->form, s->extremes[at], step));
}

static float off_by(const WeightForm *f, Grid g, float w) { return grid_value(f, g, grid_code(f, g, w)) - w; }

/* Adds the square error of every candidate for columns [from, from + n) of row r. */
static void add_errors(const Search *s, int64_t r, int64_t from, int64_t n, double *error)
{
    const WeightMatrix *m = s->m;
    const float *h = s->h + r / (m->out / m->blocks) * m->in * m->in, *off = s->off + r * m->in;
    int64_t at = codes_at(s->c, r, from);
    for (int k = 0; k < GRID_STEPS; k++) {
        Grid g = candidate(s, at, k);
        for (int64_t j = 0; j < n; j++) s->tried[k * n + j] = off_by(&s->c->form, g, m->w[r * m->in + from + j]);
    }
    memset(s->y, 0, sizeof *s->y * (size_t)(n * GRID_STEPS));
    rows_times(h + from * m->in + from, n, m->in, s->tried, GRID_STEPS, n, s->y);
    for (int64_t i = 0; i < n; i++) {
        double before = 0;
        for (int64_t j = 0; j < from; j++) before += (double)h[(from + i) * m->in + j] * off[j];
        for (int k = 0; k < GRID_STEPS; k++)
            error[k] += (double)s->tried[k * n + i] * ((double)s->y[i * GRID_STEPS + k] + 2 * before);
    }
}

static void choose(const Search *s, int64_t owner, int64_t from, int64_t n)
{
    double error[GRID_STEPS] = {0};
    const WeightMatrix *m = s->m;
    int best = 0;
    int64_t at = codes_at(s->c, owner, from);
    for (int64_t r = owner; r < m->out; r += s->c->owners) add_errors(s, r, from, n, error);
    for (int k = 1; k < GRID_STEPS; k++)
        if (error[k] < error[best]) best = k;
    Grid g = candidate(s, at, best);
    s->c->scale[at] = g.scale, s->c->zero[at] = g.zero;
    for (int64_t r = owner; r < m->out; r += s->c->owners)
        for (int64_t j = from; j < from + n; j++)
            s->off[r * m->in + j] = off_by(&s->c->form, g, m->w[r * m->in + j]);
}

WeightCodes weights_seqmse(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    Arena work = {0};
    WeightCodes c = weight_method_at(0)->find(m, f, NULL, mem); /* whole grids to begin with */
    Search x = {.m = m, .c = &c, .extremes = codes_extremes(m, &c, &work)};
    x.h = moments_full(s, &work);
    x.off = NEW_ARRAY(&work, float, m->out * m->in + 1);
    x.tried = NEW_ARRAY(&work, float, m->in * GRID_STEPS + 1), x.y = NEW_ARRAY(&work, float, m->in * GRID_STEPS + 1);
    for (int64_t owner = 0; owner < c.owners; owner++)
        for (int64_t from = 0, n; from < m->in; from += n) {
            for (n = 1; from + n < m->in && c.group[from + n] == c.group[from];) n++;
            choose(&x, owner, from, n);
        }
    codes_round(m, &c);
    arena_drop(&work);
    return c;
}
