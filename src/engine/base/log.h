/*
 * log.h
 *     Log lines on stderr ("LEVEL: text"), which the supervisor forwards to the server log.
 *
 * Any thread may log: a line is one write().
 */
#ifndef IA3_LOG_H
#define IA3_LOG_H

typedef enum ia3_log_level { IA3_LOG_DEBUG, IA3_LOG_LOG, IA3_LOG_WARNING, IA3_LOG_ERROR } ia3_log_level;

/* One line, cut at about 2,000 bytes; line breaks become spaces. Dropped rather than waited for when stderr is full. */
void ia3_log(ia3_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
