/* join.c - products that follow each other run on blocks of the same rows.
 *
 * Comes in: the program, laid out. Goes out: the same stages, where a product of two computed operands, what is done to its rows, and the
 * product that reads these rows (attention: scores, softmax, values) stand side by side under one Compute.share number. Their kernel
 * shares the loops over batches and blocks of rows, and the rows of a block are all there is of the results between them: no score ever
 * reaches memory.
 *
 * It pays where both right operands belong to a batch: they are used again by every block of its rows and stay in the cache. Weights, which
 * all batches share, are better read once for all rows, so chains of layers stay as they are. */
#include "codegen/analyse.h"

enum { REACH = 64 }; /* how far the second product may be from the first */

typedef struct Join {
    Kernel *k;
    Arena *mem;
    Compute stage[JOINED]; /* copies, over the axes of the first */
    uint32_t from[JOINED]; /* where they stand */
    uint32_t n;
    bool *inside; /* per buffer: written by a member, not the last one */
} Join;

/* A product whose operands are both computed, of several batches: rank says more than rows and lanes. */
static bool is_batched(Kernel *k, const Compute *s, Contraction *r)
{
    if (!contraction_of(k, s, r) || !r->row || s->scan || s->check || r->acc != DT_f32) return false;
    ExprNode n = *expr_node(k, r->right);
    return n.kind == E_LOAD && k->buf.at[n.id].kind != BUF_CONST && has_batches(k, s, r);
}

static bool reads_inside(const Join *j, const LoadList *l)
{
    for (uint32_t i = 0; i < l->at.n; i++)
        if (j->inside[expr_node(j->k, l->at.at[i])->id]) return true;
    return false;
}

static const Expr *written_at(const Join *j, int buf) /* by the first member that writes it */
{
    for (uint32_t i = 0; i < j->n; i++) {
        const Compute *s = &j->stage[i];
        if (s->out == buf) return s->at;
        if (s->keep && (int)expr_node(j->k, s->keep)->id == buf) return expr_node(j->k, s->keep)->arg;
    }
    return NULL;
}

/* Gives the stage the axes of what it reads, where it reads them at axes of its own; false: two members want the same axis to be theirs. */
static bool adopt_axes(Join *j, Compute *s)
{
    Kernel *k = j->k;
    bool *adopted = NEW_ARRAY(j->mem, bool, k->axis.n);
    for (bool again = true; again;) {
        LoadList l = {0};
        again = false;
        stage_loads(k, j->mem, s, &l);
        for (uint32_t i = 0; i < l.at.n && !again; i++) {
            ExprNode n = *expr_node(k, l.at.at[i]);
            const Expr *at = j->inside[n.id] ? written_at(j, (int)n.id) : NULL;
            for (int d = 0; at && d < k->buf.at[n.id].rank && !again; d++) {
                int own = axis_of_index(k, n.arg[d]), its = axis_of_index(k, at[d]);
                if (!own || !its || k->axis.at[own].extent != k->axis.at[its].extent) return false;
                bool space = false;
                for (int e = 0; e < s->rank; e++) space = space || s->space[e] == own;
                if (own == its || !space || stage_has_axis(s, its)) continue;
                if (adopted[own]) return false;
                stage_rename(k, s, own, its), adopted[its] = again = true;
            }
        }
    }
    return true;
}

/* Takes the stage in; false: it cannot be part of the chain. */
static bool take(Join *j, uint32_t at, bool last)
{
    Compute s = j->k->stage.at[at];
    if (j->n == JOINED || s.scan || s.update || s.where || s.check || !adopt_axes(j, &s)) return false;
    if (j->n && s.when != j->stage[0].when) return false;
    int kept = s.keep ? (int)expr_node(j->k, s.keep)->id : 0;
    if (!last && (j->k->buf.at[s.out].kind != BUF_TMP || (kept && j->k->buf.at[kept].kind != BUF_TMP))) return false;
    if (!last) j->inside[s.out] = j->inside[kept] = true;
    j->inside[0] = false;
    j->stage[j->n] = s, j->from[j->n++] = at;
    return true;
}

static bool is_member(const Join *j, uint32_t stage)
{
    for (uint32_t i = 0; i < j->n; i++)
        if (j->from[i] == stage) return true;
    return false;
}

/* Do the members stand alone? Nobody else touches what lies between them, or shares loops with one of them; and what stands among them
 * may as well stand before. */
static bool is_alone(Join *j)
{
    Kernel *k = j->k;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        LoadList l = {0};
        if (is_member(j, i)) continue;
        stage_loads(k, j->mem, s, &l);
        if (reads_inside(j, &l) || j->inside[s->out] || (s->keep && j->inside[expr_node(k, s->keep)->id])) return false;
        bool among = i > j->from[0] && i < j->from[j->n - 1];
        for (uint32_t m = 0; m < j->n; m++) {
            const Compute *o = &k->stage.at[j->from[m]];
            LoadList read = {0};
            if (s->share && s->share == o->share) return false;
            if (!among || j->from[m] > i) continue;
            stage_loads(k, j->mem, o, &read);
            for (uint32_t r = 0; r < read.at.n; r++)
                if (stage_writes(k, s, (int)expr_node(k, read.at.at[r])->id)) return false;
        }
    }
    return true;
}

static bool is_shared(Kernel *k, uint32_t first, uint32_t n, int axis)
{
    int common[MAX_RANK], m = share_axes(k, first, first + n, common);
    for (int i = 0; i < m; i++)
        if (common[i] == axis) return true;
    return false;
}

/* The members side by side where the last one stands, or the program as it was. */
static bool settle(Join *j, uint32_t *at)
{
    Kernel *k = j->k;
    Compute *old = k->stage.at, *now = NEW_ARRAY(k->mem, Compute, k->stage.n);
    uint32_t n = 0, end = j->from[j->n - 1], count = k->stage.n, first;
    int share = 0;
    Contraction a, b;
    for (uint32_t i = 0; i < count; i++)
        if (old[i].share > share) share = old[i].share;
    for (uint32_t i = 0; i <= end; i++)
        if (!is_member(j, i)) now[n++] = old[i];
    first = n;
    for (uint32_t i = 0; i < j->n; i++) now[n] = j->stage[i], now[n++].share = share + 1;
    for (uint32_t i = end + 1; i < count; i++) now[n++] = old[i];
    k->stage.at = now, k->stage.n = k->stage.cap = n;
    bool same = contraction_of(k, &now[first], &a) && contraction_of(k, &now[first + j->n - 1], &b) && a.row == b.row;
    if (same && is_shared(k, first, j->n, a.row)) return *at = first + j->n - 1, true;
    k->stage.at = old, k->stage.n = k->stage.cap = count;
    return false;
}

/* The chain that begins with this product. */
static bool find_chain(Join *j, uint32_t at)
{
    Kernel *k = j->k;
    Contraction r;
    if (!is_batched(k, &k->stage.at[at], &r) || k->buf.at[k->stage.at[at].out].kind != BUF_TMP) return false;
    if (!stage_at_axes(k, &k->stage.at[at]) || !take(j, at, false)) return false;
    for (uint32_t i = at + 1; i < k->stage.n && i <= at + REACH; i++) {
        LoadList l = {0};
        stage_loads(k, j->mem, &k->stage.at[i], &l);
        if (!reads_inside(j, &l)) continue;
        bool last = is_batched(k, &k->stage.at[i], &r) && !reads_inside(j, &(LoadList){{&r.right, 1, 1}});
        if (!take(j, i, last)) return false;
        if (last) return is_alone(j);
    }
    return false;
}

static Join join_new(Kernel *k, Arena *mem)
{
    return (Join){.k = k, .mem = mem, .inside = NEW_ARRAY(mem, bool, k->buf.n)};
}

uint32_t joined_stages(Kernel *k, uint32_t at, uint32_t *stage)
{
    Arena scratch = {0};
    Join j = join_new(k, &scratch);
    uint32_t n = find_chain(&j, at) ? j.n : 0;
    memcpy(stage, j.from, n * sizeof *stage);
    arena_drop(&scratch);
    return n;
}

void program_join(Kernel *k)
{
    Arena scratch = {0};
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Join j = join_new(k, &scratch);
        if (find_chain(&j, i)) settle(&j, &i);
    }
    arena_drop(&scratch);
}
