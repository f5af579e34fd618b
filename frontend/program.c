/* program.c - see program.h. The artefact lies in a folder of its own; a mapping outlives its file. */
#include "frontend/program.h"
#include "frontend/file.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static void remove_files(const char *path)
{
    Arena mem = {0};
    size_t n = strlen(path) - strlen("so");
    char *folder = arena_text(&mem, path, (size_t)(strrchr(path, '/') - path));
    unlink(path), unlink(arena_printf(&mem, "%.*sh", (int)n, path)), rmdir(folder);
    arena_drop(&mem);
}

bool program_open(Program *p, const char *path, int threads, Diag *diag)
{
    return artefact_load(path, &p->loaded, diag) && (p->session = session_new(&p->loaded, threads, diag));
}

bool program_new(Program *p, const Graph *g, const ProgramOptions *o, Arena *mem, Diag *diag)
{
    char *folder = arena_printf(mem, "%s/octet-XXXXXX", temporary_base());
    *p = (Program){{0}, NULL, NULL};
    if (!mkdtemp(folder)) return diag_error(diag, NULL, "%s cannot be made: %s", folder, strerror(errno));
    const char *path = arena_printf(mem, "%s/%s.so", folder, o->name ? o->name : "observed");
    CodegenOptions c = {
        .target = o->target ? o->target : "native", .out = path, .kind = ARTEFACT_SO, .cache = o->cache, .quiet = true};
    if (o->store) c.store = *o->store;
    bool ok = codegen_graph(g, &c, diag) && program_open(p, path, o->threads, diag);
    if (ok && o->name) p->path = path;
    else remove_files(path);
    if (!ok) program_drop(p);
    return ok;
}

void program_drop(Program *p)
{
    if (p->session) session_drop(p->session);
    if (p->loaded.handle) artefact_unload(&p->loaded);
    if (p->path) remove_files(p->path);
    *p = (Program){{0}, NULL, NULL};
}
