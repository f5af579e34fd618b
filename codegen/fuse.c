/* fuse.c - two axes that run through memory as one become one.
 *
 * Comes in: an extracted kernel of one stage. Goes out: the same stage over fewer, longer axes: [N, H, W, C] + [N, H, W, C] is a line
 * of N*H*W*C elements, and the pixels of a 1 x 1 convolution are the rows of a matrix. The two axes a, b become f with a = f / B, b = f % B,
 * which is right whenever every address stays a multiple of f; the algebra of indices (ir/expr_index.c) shows whether it does. Axes of one
 * element go, but for the column of a product. Equal work in other shapes becomes the same kernel. */
#include "codegen/analyse.h"

static bool uses_outside(const Kernel *k, Expr e, int axis) /* other than to say where to load */
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_AXIS) return (int)n->id == axis;
    if (n->kind != E_PRIM || !expr_uses(k, e, axis)) return false;
    for (int i = 0; i < 3 && n->arg[i]; i++)
        if (uses_outside(k, n->arg[i], axis)) return true;
    return false;
}

static void map_stage(Kernel *k, Compute *c, const Expr *map)
{
    Expr *e[] = {&c->value, &c->epilogue, &c->check};
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (*e[i]) *e[i] = expr_map(k, *e[i], map);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) c->at[d] = expr_map(k, c->at[d], map);
}

static bool stays_linear(Kernel *k, Arena *mem, const Compute *c, int a, int b, int f, const Expr *map)
{
    LoadList l = {0};
    stage_loads(k, mem, c, &l);
    for (uint32_t i = 0; i <= l.at.n; i++) {
        Expr address;
        if (i < l.at.n) {
            ExprNode n = *expr_node(k, l.at.at[i]);
            address = buf_address(k, (int)n.id, n.arg);
        } else {
            address = buf_address(k, c->out, c->at);
        }
        if (!expr_uses(k, address, a) && !expr_uses(k, address, b)) continue;
        if (!expr_step(k, expr_map(k, address, map), f)) return false;
    }
    return true;
}

static bool try_fuse(Kernel *k, Arena *mem, Compute *c, int *axis, int *n, int outer, int inner)
{
    int a = axis[outer], b = axis[inner];
    Expr size = k->axis.at[b].extent, exprs[] = {c->value, c->epilogue, c->check};
    for (size_t i = 0; i < COUNT_OF(exprs); i++)
        if (exprs[i] && (uses_outside(k, exprs[i], a) || uses_outside(k, exprs[i], b))) return false;
    uint32_t axes = k->axis.n;
    int f = kernel_axis(k, arena_printf(k->mem, "f%u", (unsigned)axes), expr_mul(k, k->axis.at[a].extent, size));
    Expr *map = NEW_ARRAY(mem, Expr, k->axis.n);
    map[a] = expr_div(k, expr_axis(k, f), size), map[b] = expr_mod(k, expr_axis(k, f), size);
    if (!stays_linear(k, mem, c, a, b, f, map)) {
        k->axis.n = axes;
        return false;
    }
    map_stage(k, c, map);
    axis[outer] = f;
    for (int i = inner; i + 1 < *n; i++) axis[i] = axis[i + 1];
    --*n;
    return true;
}

static void fuse_axes(Kernel *k, Arena *mem, Compute *c, int *axis, int *n)
{
    bool again = true;
    while (again) {
        again = false;
        for (int i = 0; i < *n && !again; i++)
            for (int j = 0; j < *n && !again; j++)
                again = i != j && try_fuse(k, mem, c, axis, n, i, j);
    }
}

static void drop_single(Kernel *k, Arena *mem, Compute *c, int *axis, int *n, int least)
{
    Expr *map = NEW_ARRAY(mem, Expr, k->axis.n);
    int kept = 0, all = *n;
    for (int i = 0; i < all; i++) {
        if (expr_is(k, k->axis.at[axis[i]].extent, 1) && kept + (all - i) > least)
            map[axis[i]] = expr_index(k, 0);
        else axis[kept++] = axis[i];
    }
    *n = kept;
    map_stage(k, c, map);
}

static void set_aside(int *axis, int *n, int which)
{
    int kept = 0;
    for (int i = 0; i < *n; i++)
        if (axis[i] != which) axis[kept++] = axis[i];
    *n = kept;
}

void kernel_fuse(Kernel *k)
{
    if (k->stage.n != 1) return;
    Compute *c = &k->stage.at[0];
    Contraction r;
    if (c->scan || c->update || c->keep || c->where) return;
    Arena scratch = {0};
    int column = contraction_of(k, c, &r) && expr_is(k, k->axis.at[r.lane].extent, 1) ? r.lane : 0;
    if (column) set_aside(c->space, &c->rank, column);
    drop_single(k, &scratch, c, c->space, &c->rank, 0);
    drop_single(k, &scratch, c, c->reduce, &c->reduces, 1);
    fuse_axes(k, &scratch, c, c->space, &c->rank);
    fuse_axes(k, &scratch, c, c->reduce, &c->reduces);
    if (column) c->space[c->rank++] = column;
    arena_drop(&scratch);
}
