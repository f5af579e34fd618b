/* crew.h - some work for each of n things, by several threads. Each thing is one thread's, so what is done to it does not depend on how many
 * there are. */
#ifndef OCTET_CREW_H
#define OCTET_CREW_H
#include <stdint.h>

typedef void CrewWork(void *ctx, uint32_t i);
void crew_run(int threads, uint32_t n, CrewWork *work, void *ctx);
#endif
