/* Clustering: which stages disappear, which must not, and that nothing changes the results. */
#include "tests/unit/kernel_runs.h"

static Program *clustered(const char *text, uint32_t stages)
{
    Program *p = program_new(text);
    p->symbol[0] = 5;
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k);
    program_check(p->k, "cluster");
    program_compare(p, want, program_run(p, 0), "cluster");
    cr_assert_eq(p->k->stage.n, stages, "%u stages are left of:\n%s", p->k->stage.n, text);
    return p;
}

Test(cluster, epilogues)
{
    program_drop(clustered("kernel k() { in X[2, 8, 6, 6], R[2, 16, 4, 4] const W[16, 8, 3, 3], B[16] out Y[2, 16, 4, 4]"
                           " tmp a[2, 16, 4, 4], b[2, 16, 4, 4], c[2, 16, 4, 4], d[2, 16, 4, 4]"
                           " a[n, o, h, w] = sum(k: 8, i: 3, j: 3) X[n, k, h + i, w + j] * W[o, k, i, j]"
                           " b[n, o, h, w] = a[n, o, h, w] + B[o]"
                           " c[n, o, h, w] = max(b[n, o, h, w], 0)"
                           " d[n, o, h, w] = tanh(R[n, o, h, w])"
                           " Y[n, o, h, w] = c[n, o, h, w] + d[n, o, h, w] }",
                           1));
}

Test(cluster, epilogue_waits_for_the_later_operand)
{ /* both branches are sums: the second one takes the addition */
    program_drop(clustered("kernel k() { in X[4, 8] const V[8, 8], W[8, 8] out Y[4, 8] tmp a[4, 8], b[4, 8], c[4, 8]"
                           " a[m, n] = sum(k: 8) X[m, k] * V[k, n]"
                           " b[m, n] = sum(k: 8) X[m, k] * W[k, n]"
                           " c[m, n] = a[m, n] + b[m, n]"
                           " Y[m, n] = max(c[m, n], 0) }",
                           2));
}

/* Channels last, as a convolution left them, behind a Squeeze and a Relu; behind a Transpose that is the order of rows. */
Test(cluster, the_order_of_results_is_handed_on)
{
    static const struct {
        const char *tmp, *text;
        int dim[3], n;
    } row[] = {{"b[1, 16, 12]", "b[n, o, w] = max(a[n, o, 0, w], 0) Y[w, c] = sum(o: 16) b[0, o, w] * V[o, c]", {0, 2, 1}, 3},
               {"b[1, 12, 16]", "b[n, w, o] = max(a[n, o, 0, w], 0) Y[w, c] = sum(o: 16) b[0, w, o] * V[o, c]", {0}, 0}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        char text[512];
        snprintf(text, sizeof text, "kernel k() { in X[1, 8, 14] const W[16, 8, 3], V[16, 4] out Y[12, 4] tmp a[1, 16, 1, 12] layout(0, 2, 3, 1),"
                 " %s a[n, o, h, w] = sum(k: 8, i: 3) X[n, k, w + i] * W[o, k, i] %s }", row[i].tmp, row[i].text);
        Program *p = clustered(text, 2);
        for (uint32_t b = 1; b < p->k->buf.n; b++) {
            if (strcmp(p->k->buf.at[b].name, "b")) continue;
            cr_expect_eq(p->k->buf.at[b].layout.n, row[i].n);
            for (int d = 0; d < row[i].n; d++) cr_expect_eq(p->k->buf.at[b].layout.axis[d].dim, row[i].dim[d]);
        }
        program_drop(p);
    }
}

Test(cluster, a_scan_keeps_what_an_earlier_stage_reads)
{ /* b is read by a alone, which stands before it, one step of the scan later */
    program_drop(clustered("kernel k() { in X[3, 9] out Y[3, 9] tmp b[3, 9]"
                           " Y[r, i] = guard(0 < i, b[r, i - 1] * 0.5, 0) + X[r, i] scan i"
                           " b[r, i] = max(Y[r, i], 0) scan i }",
                           2));
}

Test(cluster, work_is_not_repeated)
{ /* exp would be computed for every column of the product */
    program_drop(clustered("kernel k() { in X[4, 8] const W[8, 8] out Y[4, 8] tmp a[4, 8] a[m, k] = exp(X[m, k])"
                           " Y[m, n] = sum(k: 8) a[m, k] * W[k, n] }",
                           2));
    program_drop(clustered("kernel k() { in X[6, 6] out Y[4, 4] tmp a[6, 6] a[h, w] = exp(X[h, w])" /* overlapping windows */
                           " Y[y, x] = max(i: 3, j: 3) a[y + i, x + j] }",
                           2));
    program_drop(clustered("kernel k() { in X[6, 6] out Y[3, 3] tmp a[6, 6] a[h, w] = exp(X[h, w])" /* these do not */
                           " Y[y, x] = max(i: 2, j: 2) a[y * 2 + i, x * 2 + j] }",
                           1));
}

Test(cluster, copies_move_no_data)
{ /* heads: split, transposed, multiplied, transposed back, merged */
    program_drop(clustered("kernel k(S) { in Q[S, 32], K[S, 32] out Y[2, S, S] tmp q4[S, 2, 16], qt[2, S, 16], k4[S, 2, 16], kt[2, 16, S]"
                           " q4[s, h, d] = Q[s, h * 16 + d] qt[h, s, d] = q4[s, h, d]"
                           " k4[s, h, d] = K[s, h * 16 + d] kt[h, d, s] = k4[s, h, d]"
                           " Y[h, s, t] = sum(d: 16) qt[h, s, d] * kt[h, d, t] }",
                           1));
    program_drop(clustered("kernel k(S) { in P[2, S, S], V[2, S, 16] out Y[S, 32] tmp c[2, S, 16], ct[S, 2, 16]"
                           " c[h, s, d] = sum(t: S) P[h, s, t] * V[h, t, d] ct[s, h, d] = c[h, s, d] Y[s, n] = ct[s, n / 16, n % 16] }",
                           1));
}

/* Heads of queries have keys in common: a batch may choose them by a piece of it. Nothing else may: rows of an image at every second place have no step. */
Test(cluster, batches_share_what_they_read)
{
    program_drop(clustered("kernel k(M, T) { in Q[6, M, 4], K[2, T, 4] out S[6, M, T] tmp e[6, T, 4] e[h, t, d] = K[h / 3, t, d]"
                           " S[h, m, t] = sum(d: 4) Q[h, m, d] * e[h, t, d] }",
                           1));
    program_drop(clustered("kernel k() { in X[3, 3, 4] const W[4, 5] out Y[6, 6, 5] tmp e[6, 6, 4] e[h, w, c] = X[h / 2, w / 2, c]"
                           " Y[h, w, o] = sum(c: 4) e[h, w, c] * W[c, o] }",
                           2));
}

Test(cluster, a_product_is_not_stored_across)
{ /* keys go where the scores want them by a copy that turns tiles, not one by one: the columns of the product stay side by side */
    Program *p = clustered("kernel k(S) { in X[S, 32], Q[2, S, 16] const W[32, 32] out Y[2, S, S] tmp a[S, 32], k4[S, 2, 16], kt[2, 16, S]"
                           " a[s, n] = sum(k: 32) X[s, k] * W[k, n] k4[s, h, d] = a[s, h * 16 + d] kt[h, d, s] = k4[s, h, d]"
                           " Y[h, s, t] = sum(d: 16) Q[h, s, d] * kt[h, d, t] }",
                           2);
    const Compute *a = &p->k->stage.at[0];
    cr_assert(expr_uses(p->k, a->at[p->k->buf.at[a->out].rank - 1], a->space[1]));
    program_drop(p);
}

Test(cluster, an_updated_copy_stays_a_copy)
{ /* what it was made of is read later; where it is read before, or the update is elsewhere, there is no copy */
    program_drop(clustered("kernel k() { in X[4, 8], U[8] out Y[4, 8], Z[4] tmp a[4, 8] a[i, j] = exp(X[i, j])"
                           " Y[i, j] = a[i, j] Y[1, j] for j: 8 = U[j] Z[i] = sum(j: 8) a[i, j] }",
                           4));
    program_drop(clustered("kernel k() { in X[4, 8], U[8] out Y[4, 8], Z[4] tmp a[4, 8] a[i, j] = exp(X[i, j])"
                           " Y[i, j] = a[i, j] Z[i] = sum(j: 8) a[i, j] Y[1, j] for j: 8 = U[j] }",
                           3));
    program_drop(clustered("kernel k(N) { in X[N, 8], U[8] out Y[N + 1, 8], Z[N] tmp a[N, 8] a[i, j] = exp(X[i, j])"
                           " Y[i, j] for i: N, j: 8 = a[i, j] Y[N, j] for j: 8 = U[j] Z[i] = sum(j: 8) a[i, j] }",
                           3));
}

Test(cluster, concatenation_is_where_the_parts_are_stored)
{
    Program *p = clustered("kernel k() { in X[4, 8] const V[8, 8], W[8, 8] out Y[4, 16], Z[4, 24] tmp a[4, 8], b[4, 8], c[4, 16], d[4, 24]"
                           " a[m, n] = sum(k: 8) X[m, k] * V[k, n]"
                           " b[m, n] = sum(k: 8) a[m, k] * W[k, n]"
                           " c[m, n] for m: 4, n: 8 = a[m, n] c[m, n + 8] for m: 4, n: 8 = b[m, n]"
                           " d[m, j] for m: 4, j: 16 = c[m, j] d[m, n + 16] for m: 4, n: 8 = X[m, n]"
                           " Y[m, j] = exp(c[m, j]) Z[m, i] = exp(d[m, i]) }",
                           5);
    cr_assert_eq(p->k->stage.at[0].out, p->k->stage.at[1].out); /* both products go into the larger concatenation */
    program_drop(p);
}

Test(cluster, results_made_of_digits)
{ /* four phases are channels of one product: it stores each where it belongs, and takes what follows */
    program_drop(clustered("kernel k(S) { in X[S, 9, 8] const W[12, 8], B[3] out Y[3, 2 * S, 18] tmp z[12, S, 9], a[3, 2 * S, 18]"
                           " z[o, q, p] = sum(k: 8) X[q, p, k] * W[o, k]"
                           " a[c, y, x] = z[(y % 2 * 2 + x % 2) * 3 + c, y / 2, x / 2]"
                           " Y[c, y, x] = max(a[c, y, x] + B[c], 0) }",
                           1));
    program_drop(clustered("kernel k(S) { in X[S, 5, 8] const W[4, 8] out Y[1, 2 * S, 10] tmp z[4, S, 5]"
                           " z[o, q, p] = sum(k: 8) X[q, p, k] * W[o, k]" /* few beside each other: tanh waits for more of them */
                           " Y[c, y, x] = tanh(z[y % 2 * 2 + x % 2 + c, y / 2, x / 2]) }",
                           2));
    program_drop(clustered("kernel k() { in X[4, 8] const W[8, 12] out Y[4, 12] tmp z[4, 12]" /* a shuffle: stored one by one */
                           " z[m, n] = sum(k: 8) X[m, k] * W[k, n]"
                           " Y[m, n] = z[m, n % 3 * 4 + n / 3] }",
                           2));
}

Test(cluster, what_follows_pieces_goes_to_each)
{
    program_drop(clustered("kernel k() { in X[4, 8] const V[8, 8], W[8, 8], B[16] out Y[4, 16], Z[4] tmp a[4, 8], b[4, 8], c[4, 16], d[4, 16]"
                           " a[m, n] = sum(k: 8) X[m, k] * V[k, n]"
                           " b[m, n] = sum(k: 8) X[m, k] * W[k, n]"
                           " c[m, n * 2] for m: 4, n: 8 = a[m, n] c[m, n * 2 + 1] for m: 4, n: 8 = b[m, n]"
                           " d[m, j] = max(c[m, j] + B[j], 0)"
                           " Y[m, j] = exp(d[m, j]) Z[m] = sum(j: 16) d[m, j] }",
                           4));
    program_drop(clustered("kernel k() { in X[4, 8], R[4, 8] const V[8, 8] out Y[4, 16] tmp a[4, 8], c[4, 16], d[4, 16], e[4, 16]"
                           " a[m, n] = sum(k: 8) X[m, k] * V[k, n]" /* d waits for e, which is made after the pieces */
                           " c[m, n] for m: 4, n: 8 = a[m, n] c[m, n + 8] for m: 4, n: 8 = R[m, n]"
                           " e[m, j] = sum(k: 8) R[m, k] * X[m, (j + k) % 8]"
                           " Y[m, j] = c[m, j] + e[m, j] }",
                           3));
}

Test(cluster, barriers)
{
    program_drop(clustered("kernel k(N) { in X[N] out Y[N] tmp a[N] a[t] = X[t] + guard(0 < t, a[t - 1], 0) scan t Y[i] = a[i] * 2 }", 2));
    program_drop(clustered("kernel k(N) { in X[N] out Y[4] tmp a[4] a[i] = 0 a[n % 4] for n: N add= X[n] Y[i] = a[i] * 2 }", 3));
}

Test(cluster, a_shared_group_stays_together)
{
    Program *p = clustered("kernel k(R) { in X[R, 9] out Y[R, 9] tmp m[R], s[R], e[R, 9], y[R, 9], z[R, 9]"
                           " e[r, c] = exp(X[r, c])"
                           " m[r] = max(c: 9) e[r, c] share 3"
                           " s[r] = sum(c: 9) e[r, c] - m[r] then 1 / (it + 1) share 3"
                           " y[r, c] = (e[r, c] - m[r]) * s[r] share 3"
                           " Y[r, c] = tanh(y[r, c]) }",
                           4);
    cr_assert_eq(p->k->stage.at[3].share, p->k->stage.at[1].share); /* tanh joined the group */
    cr_assert_neq(p->k->stage.at[1].share, 0);
    program_drop(p);
}

Test(cluster, dead_stages_go)
{
    program_drop(clustered("kernel k() { in X[4] out Y[4] tmp a[4], b[4] a[i] = exp(X[i]) b[i] = a[i] + 1 Y[i] = X[i] }", 1));
}

/* A chain of thousands of stages takes time and memory in proportion, also where each value is used twice. */
Test(cluster, long_programs)
{
    Arena text = {0};
    FILE *f;
    char *all = NULL;
    size_t n = 0;
    enum { STAGES = 2000 };
    f = open_memstream(&all, &n);
    fprintf(f, "kernel k() { in X[4] out Y[4] tmp t0[4]");
    for (int i = 1; i < STAGES; i++) fprintf(f, ", t%d[4]", i);
    fprintf(f, " t0[i] = X[i]");
    for (int i = 1; i < STAGES; i++) fprintf(f, " t%d[i] = t%d[i] * 0.5 + t%d[i] * t%d[i]", i, i - 1, i - 1, i - 1);
    fprintf(f, " Y[i] = t%d[i] }", STAGES - 1);
    fclose(f);
    Program *p = program_new(all);
    program_cluster(p->k);
    cr_assert_lt(p->k->stage.n, (uint32_t)STAGES / 4);
    cr_assert_lt(expr_count(p->k), 100u * STAGES);
    program_drop(p);
    arena_drop(&text);
    free(all);
}
