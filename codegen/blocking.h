/* blocking.h - how a contraction is cut into register tiles, and in which order they are walked. */
#ifndef OCTET_BLOCKING_H
#define OCTET_BLOCKING_H
#include "codegen/codegen.h"

/* What is multiplied. A step is one value of the summed axis, or as many as one instruction sums. Sizes below 0 are unknown. */
typedef struct Product {
    int64_t rows, panels, steps; /* results: rows x panels of 16 columns, each a sum of `steps` steps */
    int64_t times;               /* so many times over: the other axes that choose rows */
    int64_t apart;               /* rows from a line to the next; 0: they are elsewhere */
    int64_t lines;               /* of these the last, where all are known and a tile may have the rows of several of its values; else 1 */
    int64_t unit, least;         /* rows that are unknown: a multiple of unit, at least so many */
    int64_t tile;                /* a loop over tiles of so many rows encloses everything; -1: of any number; 0: it need not */
    int64_t image;               /* bytes of all rows as they lie in memory */
    bool once;                   /* a tile reads every byte of its rows once: there are no windows that overlap */
    int64_t pitch;               /* bytes from one row to the next; 0: unknown */
    TileStep how;                /* instructions of a step */
    bool codes;                  /* of weights in blocks: they are unpacked in every step */
    int left, right;             /* bytes a step reads of one row, of one panel */
    int result;                  /* bytes of a result */
} Product;

typedef struct Blocking {
    int rows, cols;    /* of a tile; cols in panels */
    int lines;         /* so many times the rows */
    bool panels_first; /* a group of panels stays in a cache while all rows pass; else some rows stay while all panels do */
    int block;         /* so many tiles' rows (panels first), or groups of panels, stay in a farther cache while all of the other pass; 0: all */
} Blocking;

/* Panels of so many bytes and more are taken to come from behind the second cache. So far ahead panels may be asked for. */
enum { PANELS_FAR = 256 * 1024, PANELS_NEXT = 384 * 1024 };

Blocking blocking_vectors(const Product *p, const Target *t); /* tiles of vector registers */
Blocking blocking_tiles(const Product *p);                    /* of tile registers; rows 0: none fit */
#endif
