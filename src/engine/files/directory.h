/*
 * directory.h
 *     Finds the directory of a checkpoint, and says what a directory is that the engine cannot use.
 */
#ifndef IA3_DIRECTORY_H
#define IA3_DIRECTORY_H

#include <limits.h>

#include "engine/base/error.h"

/*
 * Finds the directory that `name` means, and writes its canonical path to `path`. A name is one of
 *   - a directory with a checkpoint,
 *   - a folder of the cache of Hugging Face's hub, "models--ORGANIZATION--NAME", of which refs/main names the snapshot,
 *   - ORGANIZATION/NAME, as on the hub, if the cache of the user who runs the engine contains it. The cache is
 *     $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, or ~/.cache/huggingface/hub.
 * Errors (IA3_E_BAD_CHECKPOINT) name what was looked for and where.
 */
bool ia3_directory_find(const char *name, char path[PATH_MAX], ia3_error *err);

/*
 * The error about a directory without weights in a format that can be read: what the directory is, or which weights it
 * has instead, and what to do. Returns false.
 */
bool ia3_directory_without_weights(const char *directory, ia3_error *err);

/*
 * The error about a directory without config.json. Returns false.
 */
bool ia3_directory_without_config(const char *directory, ia3_error *err);

#endif
