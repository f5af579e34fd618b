/* simulate.h - what is decided together when some contractions go back to float, and the quantized model in float arithmetic with a
 * switch for every such region: one program in which the loss of any choice of regions is measured, without a compilation for each.
 *
 * A region is what reads one quantized tensor. Its conversion is an epilogue of whatever computes the tensor, so a region that goes
 * back to float takes its conversion with it and leaves none behind. */
#ifndef OCTET_SIMULATE_H
#define OCTET_SIMULATE_H
#include "ir/graph.h"

typedef struct Regions {
    uint32_t n;
    uint32_t *of_val;  /* per value: the region that reads its 8-bit form, from 1; 0: none */
    uint32_t *of_node; /* per node: the region of the first input that it reads so; 0: none */
} Regions;
/* integer: per node, a contraction that reads its first input in 8 bits. Regions are numbered in the order of the nodes. */
Regions regions_find(const Graph *g, const bool *integer, Arena *mem);

/* The input of a simulation that says, region by region (bool[regions]), what is quantized. */
extern const char simulate_input[];
Val simulate_begin(Graph *g, uint32_t regions);
Val simulate_switches(const Graph *g); /* that input, of a simulation */
/* `quantized` where the region's switch is on, else `plain`: of the same type. */
Val simulate_switch(Graph *g, Val switches, uint32_t region, Val quantized, Val plain, const Loc *loc);
#endif
