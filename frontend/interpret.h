/* interpret.h - a graph run by the reference interpreter: lowered, never scheduled, every index checked. */
#ifndef OCTET_INTERPRET_H
#define OCTET_INTERPRET_H
#include "ir/lower.h"

/* program: the graph lowered, by lower_graph(). in: one Tensor per input. out: g->output.n new Tensors in mem. false: reported. */
bool interpret(const Graph *g, Kernel *program, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *d);
#endif
