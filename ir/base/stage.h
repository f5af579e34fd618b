/* stage.h - how long each stage of a long work takes, as lines of text (--time-passes). */
#ifndef OCTET_STAGE_H
#define OCTET_STAGE_H
#include <stdio.h>

double seconds_now(void); /* of a clock that only goes forward */

typedef struct Stage {
    FILE *text;       /* NULL: nothing is printed */
    const char *name; /* in progress, or NULL */
    double since;
} Stage;
void stage_begin(Stage *s, const char *name); /* ends and prints the one in progress; NULL: none follows */
#endif
