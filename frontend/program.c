/* program.c - see program.h. The artefact lies in a folder of its own; a mapping outlives its file. */
#include "frontend/program.h"
#include "frontend/file.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const char *beside(const char *path, const char *suffix, Arena *mem)
{
    return arena_printf(mem, "%.*s%s", (int)(strlen(path) - strlen("so")), path, suffix);
}

static void remove_files(const char *path)
{
    Arena mem = {0};
    char *folder = arena_text(&mem, path, (size_t)(strrchr(path, '/') - path));
    unlink(path), unlink(beside(path, "h", &mem)), unlink(beside(path, "weights", &mem)), rmdir(folder);
    arena_drop(&mem);
}

static bool program_load(Program *p, const char *path, const char *weights, int threads, Diag *diag)
{
    return artefact_load(path, &p->loaded, diag) && (!weights || artefact_weights(weights, &p->loaded, diag)) &&
           (p->session = session_new(&p->loaded, threads, diag));
}

bool program_open(Program *p, const char *path, int threads, Diag *diag)
{
    return program_load(p, path, NULL, threads, diag);
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
    if (!o->name) c.weights = beside(path, "weights", mem);
    bool ok = codegen_graph(g, &c, diag) && program_load(p, path, c.weights, o->threads, diag);
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
