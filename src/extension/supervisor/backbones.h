/*
 * backbones.h
 *     The engines that ia3.backbones asks for.
 */
#ifndef IA3_BACKBONES_H
#define IA3_BACKBONES_H

#include "utils/guc.h"

#define IA3_MAX_BACKBONES  16
#define IA3_MAX_DEVICES    16 /* of one backbone */
#define IA3_MAX_CONFIGURED 32 /* engines of all backbones */

/*
 * One engine. A backbone has one for each of its devices; their specs follow each other and differ in the device, if
 * at all.
 */
typedef struct Ia3BackboneSpec {
    char name[NAMEDATALEN];
    char path[MAXPGPATH]; /* absolute (a bare name has been resolved), or a name on the Hugging Face hub */
    char device[16];      /* "cpu", "cuda:0", "auto" */
    char dtype[16];       /* "auto", "float32", "bfloat16", "int8" */
    char sha256[65];      /* the digest that the backbone must have, hexadecimal; empty: any */
    int nDevices;         /* of the backbone */
    int cpuEngines;       /* how many of them share the cores */
} Ia3BackboneSpec;

/*
 * Parses the setting into specs[IA3_MAX_CONFIGURED]. Returns the number of engines it asks for (an empty setting asks
 * for none), or -1 with *error set to a full sentence (palloc'd). Never raises an error of its own: it also runs in
 * the check hook, inside the postmaster.
 */
extern int Ia3ParseBackbones(const char *setting, Ia3BackboneSpec *specs, char **error);

/*
 * Turns a path as it may stand in ia3.backbones into what an engine is given, spec->path. Returns an error, a full
 * sentence, or NULL.
 */
extern char *Ia3ResolveBackbonePath(const char *path, Ia3BackboneSpec *spec);

/*
 * The engines that an invalid setting names, as far as it can be read: those of the entries up to the error, at least
 * one. Returns their number.
 */
extern int Ia3NamedBackbones(const char *setting, Ia3BackboneSpec *specs);

/*
 * The check hook of ia3.backbones. At server start an invalid value stays, since no other would be right: it is
 * reported, and the supervisor starts no engines (Ia3ShmemResetEngines).
 */
extern bool Ia3CheckBackbones(char **newval, void **extra, GucSource source);

#endif
