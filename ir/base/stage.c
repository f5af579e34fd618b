/* stage.c - see stage.h. */
#include "ir/base/stage.h"
#include <time.h>

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void stage_begin(Stage *s, const char *name)
{
    if (!s->text) return;
    double now = seconds_now();
    if (s->name) fprintf(s->text, "%-16s %8.1f ms\n", s->name, (now - s->since) * 1e3);
    s->name = name, s->since = now;
}
