// staging: a directory that appears whole or not at all. Files are written into a hidden directory beside the target,
// which takes the target's name at the end; a signal before that (files_guard_signals) removes it.
#ifndef ASSAY_STAGING_H
#define ASSAY_STAGING_H

#include "harness/base/error.h"

struct staging;

// Makes the hidden directory in the target's parent, which is made when missing. The target may be a directory: it is
// what staging_commit replaces, so the caller has looked at its contents. ERROR_USAGE when it is anything else, or
// the parent cannot be written to.
int staging_open(struct staging **staging, const char *target, struct error *error);
const char *staging_path(const struct staging *staging);
// A sentence about a file in the hidden directory becomes one about the target, which is what the reader knows.
void staging_rename_error(const struct staging *staging, struct error *error);
// Brings the files to the disk and renames; an old target is set aside first, put back if the rename fails, removed
// if not. *staging is NULL afterwards in either case.
int staging_commit(struct staging **staging, struct error *error);
void staging_abandon(struct staging **staging); // removes it; safe on NULL

#endif
