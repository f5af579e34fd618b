/* fork.c - products whose rows may be few or many are there in two forms.
 *
 * Comes in: the clustered program. Goes out: the same one, with a second form of some groups of stages, and with each of the two a size that
 * says where it runs.
 *
 * A language model multiplies its queries with all keys that it has seen: one row of them for each word that it writes, and as many as a
 * prompt has words before that. Keys lie as their cache has them, the terms of a sum side by side. Few rows read them there
 * (llvm/dots.c); to put all of them into panels would take longer than the product. For many rows that pays (layout.c), and is a part of their
 * form alone. What decides is a free size, so the runtime has nothing to decide: a step that does not run has an empty range, and its buffers no bytes. */
#include "codegen/analyse.h"

typedef struct Fork {
    Kernel *k;
    Arena mem;
    VEC(Compute) out;
    Dim *second;    /* per stage: where its second form runs; id 0: there is none */
    uint32_t *last; /* per stage that has one: the last one of its group */
    uint32_t bufs;  /* there were so many */
    uint32_t *user; /* per buffer of those: 1 + the last stage of the one group that uses it, or 0 */
    int *buf;       /* per buffer: what the second form of the group in hand has instead, or 0 */
    Expr *map;      /* per axis, the same */
    int share;      /* the last number of stages that share loops */
} Fork;

/* ---- the second form ---- */
static void change(Fork *f, Expr *e)
{
    if (*e) *e = expr_map(f->k, expr_move(f->k, *e, f->buf), f->map);
}

static void rename_axis(Fork *f, int *axis)
{
    Kernel *k = f->k;
    if (!f->map[*axis]) f->map[*axis] = expr_axis(k, kernel_axis(k, NULL, k->axis.at[*axis].extent));
    *axis = axis_of_index(k, f->map[*axis]);
}

static Compute second_form(Fork *f, Compute s)
{
    for (int d = 0; d < s.rank; d++) rename_axis(f, &s.space[d]);
    for (int d = 0; d < s.reduces; d++) rename_axis(f, &s.reduce[d]);
    Expr *e[] = {&s.value, &s.epilogue, &s.keep, &s.check, &s.where};
    for (size_t i = 0; i < COUNT_OF(e); i++) change(f, e[i]);
    for (int d = 0; d < f->k->buf.at[s.out].rank; d++) change(f, &s.at[d]);
    s.out = f->buf[s.out] ? f->buf[s.out] : s.out, s.share = s.share ? f->share : 0;
    return s;
}

/* ---- groups ---- */
/* Temporaries that a group alone writes and reads: each form has its own. */
static void find_users(Fork *f)
{
    Kernel *k = f->k;
    bool *seen = NEW_ARRAY(&f->mem, bool, f->bufs);
    f->user = NEW_ARRAY(&f->mem, uint32_t, f->bufs);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        uint32_t group = f->second[i].id ? f->last[i] + 1 : 0;
        LoadList loads = {0};
        stage_loads(k, &f->mem, &k->stage.at[i], &loads);
        for (uint32_t l = 0; l <= loads.at.n; l++) {
            uint32_t b = l < loads.at.n ? expr_node(k, loads.at.at[l])->id : (uint32_t)k->stage.at[i].out;
            f->user[b] = !seen[b] || f->user[b] == group ? group : 0;
            seen[b] = true;
        }
    }
    for (uint32_t b = 1; b < f->bufs; b++)
        if (k->buf.at[b].kind != BUF_TMP) f->user[b] = 0;
}

/* Where the second form of this product runs; id 0: there is none. Weights, which all of a batch share, are put into panels beforehand; and where there are
 * as many columns as rows these are many when those are. */
static Dim second_runs(Kernel *k, const Compute *s)
{
    Contraction r;
    if (!contraction_of(k, s, &r) || word_of(k, &r) || !has_terms_beside(k, s, &r)) return (Dim){0};
    if (!r.row || k->axis.at[r.row].extent == k->axis.at[r.lane].extent) return (Dim){0};
    if (!has_batches(k, s, &r) || is_constant_load(k, r.right)) return (Dim){0};
    Dim many = rows_are_many(k, s, &r);
    return dim_is_const(k->dim, many, NULL) ? (Dim){0} : many;
}

/* What shares loops with the product: its own node's stages, or those that join.c will put beside it. */
static uint32_t group_of(Fork *f, uint32_t at, uint32_t *stage)
{
    Kernel *k = f->k;
    uint32_t n = joined_stages(k, at, stage), first = at, end = at + 1;
    int share = k->stage.at[at].share;
    if (n) return n;
    while (share && first && k->stage.at[first - 1].share == share) first--;
    while (share && end < k->stage.n && k->stage.at[end].share == share) end++;
    if (end - first > JOINED) return 0;
    while (first < end) stage[n++] = first++;
    return n;
}

static void find_group(Fork *f, uint32_t at)
{
    Kernel *k = f->k;
    Dim runs = second_runs(k, &k->stage.at[at]);
    uint32_t stage[JOINED], n = runs.id ? group_of(f, at, stage) : 0;
    for (uint32_t i = 0; i < n; i++) {
        const Compute *s = &k->stage.at[stage[i]];
        if (s->scan || s->update || s->when || f->second[stage[i]].id) return;
    }
    for (uint32_t i = 0; i < n; i++) f->second[stage[i]] = runs, f->last[stage[i]] = stage[n - 1];
}

static void add_second(Fork *f, uint32_t last)
{
    Kernel *k = f->k;
    f->buf = NEW_ARRAY(&f->mem, int, f->bufs), f->map = NEW_ARRAY(&f->mem, Expr, k->axis.n), f->share++;
    for (uint32_t b = 1; b < f->bufs; b++)
        if (f->user[b] == last + 1) f->buf[b] = kernel_buf(k, k->buf.at[b]);
    for (uint32_t i = 0; i <= last; i++) {
        if (!f->second[i].id || f->last[i] != last) continue;
        Compute s = second_form(f, k->stage.at[i]);
        s.when = expr_dim(k, f->second[i]);
        vec_push(&f->mem, &f->out, s);
    }
}

void program_fork(Kernel *k)
{
    Fork f = {.k = k, .bufs = k->buf.n};
    f.second = NEW_ARRAY(&f.mem, Dim, k->stage.n + 1), f.last = NEW_ARRAY(&f.mem, uint32_t, k->stage.n + 1);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        if (k->stage.at[i].share > f.share) f.share = k->stage.at[i].share;
        find_group(&f, i);
    }
    find_users(&f);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute s = k->stage.at[i];
        if (f.second[i].id) s.when = expr_dim(k, dim_not(k->dim, f.second[i]));
        vec_push(&f.mem, &f.out, s);
        if (f.second[i].id && f.last[i] == i) add_second(&f, i);
    }
    k->stage.at = arena_copy(k->mem, f.out.at, sizeof *f.out.at * f.out.n), k->stage.n = k->stage.cap = f.out.n;
    arena_drop(&f.mem);
}
