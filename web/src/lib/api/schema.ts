// Written by `make docs` from the route table. Change the route table instead.

export interface paths {
    "/v1/tasks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List tasks
         * @description A client key sees its own tasks; an admin key sees all.
         */
        get: operations["tasks_list_tasks"];
        put?: never;
        /**
         * Create a task
         * @description A 2xx answer means that the task is durable and reaches exactly one end. To get a file with `Accept`, also send `Prefer`, or repeat the idempotency key of an ended task; without a file of that type the answer is JSON.
         */
        post: operations["tasks_create"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/batch": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Create up to 1,000 tasks
         * @description The server accepts all tasks or none. An idempotency key covers the whole batch.
         */
        post: operations["tasks_create_batch"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a task */
        get: operations["tasks_get"];
        put?: never;
        post?: never;
        /**
         * Remove a task's data
         * @description Removes input, metadata, output and their files from an ended task, except uploads that another task uses. The task can still be listed, but not repeated. Repeating the request changes nothing.
         */
        delete: operations["erasure_erase"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a task
         * @description A queued task ends at once. Canceling an ended task changes nothing.
         */
        post: operations["tasks_cancel"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}/retry": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Repeat an ended task
         * @description Creates a new task; the old one keeps its outcome. A second request returns the same new task.
         */
        post: operations["tasks_retry"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/estimate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Estimate a task
         * @description Takes the body of `POST /v1/tasks` and creates nothing. Returns the place in the queue, start, end and cost, the changes that `degrade` would make, and whether and why the task would be refused.
         */
        post: operations["admission_show_estimate"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}/events": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Follow a task
         * @description Sends `queued` (with position and estimate), `started`, `progress`, `preview` and `artifact`, and finally `succeeded`, `failed`, `canceled` or `expired` with the whole task. Ids grow; a comment every 15 seconds keeps the connection open.
         */
        get: operations["events_stream_events"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}/favourite": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        /**
         * Add a favourite
         * @description For the key, or one of its users (`viewer`). `GET /v1/tasks` shows favourites, and lists only them with `favourite=true`.
         */
        put: operations["favourites_favour"];
        post?: never;
        /** Remove a favourite */
        delete: operations["favourites_disfavour"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/quota": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Show the remaining quota
         * @description For the caller's key, and for one of its users if `user` is given.
         */
        get: operations["accounts_show_allowance"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{id}/share": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a task's link */
        get: operations["shares_get_share"];
        put?: never;
        /**
         * Share a task's result
         * @description The link shows pictures, model, settings and, unless you leave it out, the prompt, without a key. It ends when it is revoked, expires, or the task's outputs are removed. A second request changes what the link shows and keeps the link.
         */
        post: operations["shares_share"];
        /**
         * Revoke a link
         * @description The link stops working; sharing the task again creates another one.
         */
        delete: operations["shares_unshare"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/shares": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List links
         * @description A client key sees the links of its tasks; an admin key sees all. Expired links are included.
         */
        get: operations["shares_list_shares"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/shares/{token}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get shared content
         * @description `/s/{token}` shows the same as a page.
         */
        get: operations["shares_look"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/shares/{token}/guest": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Create a guest key
         * @description Visitors of a shared page try its prompt without another key. Off by default. An address gets one key per hour.
         */
        post: operations["shares_make_guest_key"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/shares/{token}/pictures/{number}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a shared picture */
        get: operations["shares_show_picture"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List models */
        get: operations["operators_list_models"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a model
         * @description The name may end with `:version`.
         */
        get: operations["operators_get_model"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/versions": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List a model's versions */
        get: operations["operators_list_versions"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/samples/{digest}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a sample of a model's card
         * @description The URL comes with the model, needs no key, and its content never changes.
         */
        get: operations["gallery_show_sample"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/adoption": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Show the rollout of a model */
        get: operations["adoption_show_adoption"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/canary": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Start a canary
         * @description Gives a version a share of the tasks that name no version; a live worker must have it. A second request can change the share and keeps the evidence. Swell rolls the canary back if it fails significantly more often, or takes significantly longer, than the live version.
         */
        post: operations["adoption_start_version_canary"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/promote": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Promote a version
         * @description Makes a version live: the one named, or the canary. Versions registered later get only tasks that name them.
         */
        post: operations["adoption_promote_version"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/rollback": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Roll back a version
         * @description Ends the canary; without a canary, the previous live version becomes live again.
         */
        post: operations["adoption_roll_back_version"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{owner}/{name}/retire": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Retire a version
         * @description A retired version gets no tasks, even those that name it. Promoting it, or making it a canary, reverses this.
         */
        post: operations["adoption_retire_version"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/styles": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List styles
         * @description A style is a change to the prompt and further input, which the client applies. Styles come from the operator's files (`server.styles`).
         */
        get: operations["styles_list_styles"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/styles/{digest}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a style's picture
         * @description The URL comes with the style and needs no key.
         */
        get: operations["styles_show_picture"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/uploads": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Upload an input file
         * @description Send the file as the body, with its content type, or as a form with one file.
         */
        post: operations["files_upload"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/artifacts/{key}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a file
         * @description Tasks and uploads contain this signed URL; it needs no key and expires. `&w=128`, `256`, `512` or `2048` returns a task's picture as WebP of that width.
         */
        get: operations["files_get_artifact"];
        /**
         * Store an output file
         * @description For workers, with a URL from `POST /worker/v1/uploads`.
         */
        put: operations["files_put_artifact"];
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/comparisons": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List comparisons
         * @description A client key sees its own and shared comparisons; an admin key sees all.
         */
        get: operations["comparisons_list_comparisons"];
        put?: never;
        /**
         * Create a comparison
         * @description Takes ended tasks in rows: the same input and seed for two to four models. Copies the pictures without metadata and shuffles each row. A failed task leaves an empty place.
         */
        post: operations["comparing_create_comparison"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/comparisons/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a comparison
         * @description Hides the models' names, times and costs until voting ends.
         */
        get: operations["comparisons_get_comparison"];
        put?: never;
        post?: never;
        /**
         * Delete a comparison
         * @description Deletes its pictures and votes, and removes them from the ratings.
         */
        delete: operations["comparisons_drop_comparison"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/comparisons/{id}/close": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * End voting and reveal the models
         * @description This is final: the votes count for the ratings from now on. A second request changes nothing.
         */
        post: operations["comparisons_close_comparison"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/comparisons/{id}/votes": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Vote on a row
         * @description Each voter of a key has one vote for each row; a later vote replaces it.
         */
        post: operations["comparisons_cast_vote"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/comparisons/{id}/ballots": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Vote without a key
         * @description Like `votes`, with the comparison's permit instead of a key. Accepts any content type as JSON, and requests from any origin.
         */
        post: operations["comparisons_cast_ballot"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/ratings": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List ratings
         * @description Counts only comparisons with ended voting, so that no vote can be traced to a model before.
         */
        get: operations["comparisons_list_ratings"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List standing webhooks
         * @description A client key sees its own; an admin key sees all.
         */
        get: operations["webhooks_list_endpoints"];
        put?: never;
        /**
         * Create a standing webhook
         * @description It receives events of the key's tasks from now on; with several backends, after a few seconds.
         */
        post: operations["webhooks_create"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a standing webhook */
        get: operations["webhooks_get"];
        put?: never;
        post?: never;
        /**
         * Delete a standing webhook
         * @description Waiting deliveries fail.
         */
        delete: operations["webhooks_delete"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}/pause": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Pause a standing webhook
         * @description Swell keeps events until the webhook is resumed.
         */
        post: operations["webhooks_pause"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}/resume": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Resume a standing webhook
         * @description Also re-enables one that was disabled by a 410; events in between are lost to it.
         */
        post: operations["webhooks_resume"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Rotate a standing webhook's secret
         * @description Both secrets sign during the overlap, so receivers can replace theirs.
         */
        post: operations["webhooks_rotate"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}/secret": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a standing webhook's secret */
        get: operations["webhooks_show_secret"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/secrets/{name}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a signing secret
         * @description It signs requests to URLs that tasks name. Each key has `default`, and others created with `rotate`.
         */
        get: operations["webhooks_show_signing_secret"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/secrets/{name}/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Create or replace a signing secret
         * @description Both secrets sign during the overlap.
         */
        post: operations["webhooks_new_signing_secret"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/deliveries": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List deliveries
         * @description A client key sees those of its own tasks; an admin key sees all.
         */
        get: operations["webhooks_list_deliveries"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/deliveries/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a delivery */
        get: operations["webhooks_get_delivery"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/deliveries/{id}/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Replay a delivery
         * @description Sends it under the same `webhook-id`, with a new series of attempts.
         */
        post: operations["webhooks_replay"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/webhooks/{id}/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Replay failed deliveries of a webhook
         * @description Sends all failed deliveries of events since that time again, with a new series of attempts.
         */
        post: operations["webhooks_replay_failed"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/dead": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List dead letters */
        get: operations["tasks_list_dead"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/dead/{id}/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Replay a dead letter */
        post: operations["tasks_replay"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/dead/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Replay many dead letters */
        post: operations["tasks_replay_many"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/queues": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List queues */
        get: operations["operators_list_queues"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/workers": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List workers */
        get: operations["operators_list_workers"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/workers/{id}/drain": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Drain a worker */
        post: operations["operators_drain_worker"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/keys": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List keys */
        get: operations["operators_list_keys"];
        put?: never;
        /** Create a key */
        post: operations["operators_make_key"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/keys/{id}/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Rotate a key
         * @description Gives the key a new secret and keeps its id, scopes, limits and tasks. The previous secret works during the overlap; older ones stop at once.
         */
        post: operations["operators_new_secret"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/signing/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Rotate the URL signing secret
         * @description URLs signed before stay valid until they expire, unless you revoke them. After a revocation, queued tasks with such URLs in their input fail, and other backends may refuse new URLs for some seconds.
         */
        post: operations["operators_rotate_signing"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/audit": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List the audit log
         * @description Swell records every change by an operator, and every refused one, before it answers.
         */
        get: operations["operators_list_audit"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/keys/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        post?: never;
        /** Revoke a key */
        delete: operations["operators_revoke_key"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/pools": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List pools, with start times of their workers */
        get: operations["startups_list_pools"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/ledger": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List the ledger of machine time */
        get: operations["startups_list_ledger"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/scaling": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Show the autoscaler's state and decisions */
        get: operations["scaling_show_scaling"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/costs": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Show costs */
        get: operations["costs_show_costs"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/quotas": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List quotas */
        get: operations["accounts_list_quotas"];
        /**
         * Set a quota
         * @description Replaces the quota of a key or user. Usage since the start of the day or month counts, if there was a quota by then. Other backends apply it within two seconds.
         */
        put: operations["accounts_put_quota"];
        post?: never;
        /** Delete a quota */
        delete: operations["accounts_drop_quota"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/credits": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List credits */
        get: operations["accounts_list_credits"];
        put?: never;
        /**
         * Add or remove credits
         * @description Needed for quotas with `is_prepaid`.
         */
        post: operations["accounts_add_credits"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/keys/self": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Show the caller's key */
        get: operations["operators_own_key"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/health/live": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Check that the process answers */
        get: operations["operators_health_live"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/health/ready": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Check that requests can be served
         * @description Fails while the disk refuses writes, for example; `detail` gives the reason, and every check tries again.
         */
        get: operations["operators_health_ready"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/metrics": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Metrics for Prometheus */
        get: operations["operators_show_metrics"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/openapi.json": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** This API as OpenAPI 3.1 */
        get: operations["pages_openapi_json"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/llms.txt": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** A description of this server for language models */
        get: operations["pages_llms_txt"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /**
         * Problem
         * @description What went wrong and what to do about it (RFC 9457).
         */
        Problem: {
            type: string;
            title: string;
            status: number;
            detail: string;
            instance: string;
            code: string;
            /** @default [] */
            errors: components["schemas"]["FieldProblem"][];
            request_id: string;
            error: components["schemas"]["ErrorEcho"];
            error_type: string;
        };
        /**
         * FieldProblem
         * @description One broken value.
         */
        FieldProblem: {
            pointer: string;
            detail: string;
            code: string;
        };
        /**
         * ErrorEcho
         * @description The same error, as OpenAI's clients read it.
         */
        ErrorEcho: {
            message: string;
            type: string;
            code: string;
            /** @default null */
            param: string | null;
        };
        /**
         * TaskRequest
         * @description A request for a task.
         */
        TaskRequest: {
            /** @description `owner/name`, or `owner/name:version` for one version */
            model: string;
            /** @description the model's input, as its `input_schema` describes it */
            input: Record<string, unknown>;
            /** @description number of samples (pictures) */
            count?: number;
            /** @description 0 goes before the key's other tasks; 2 or more goes after everyone's usual tasks, with at least one of twenty turns */
            priority?: number;
            class?: string | null;
            seed?: number | null;
            user?: string | null;
            start_by_s?: number | null;
            finish_by_s?: number | null;
            /** @description changes that you accept if the task would miss a deadline or no worker can run it */
            degrade?: components["schemas"]["DegradeRequest"] | null;
            /** @description attempts, including those of lost workers */
            max_attempts?: number;
            /** @description any JSON up to 16 KiB, returned unchanged */
            metadata?: Record<string, unknown> | unknown[] | string | number | boolean | null;
            webhook?: (string | components["schemas"]["WebhookRequest"]) | null;
        };
        /**
         * DegradeRequest
         * @description Changes that the client accepts to meet a deadline.
         */
        DegradeRequest: {
            steps?: number | null;
            size_px?: number | null;
            /** @description other models, best first; the input must fit them */
            models?: string[];
        };
        /**
         * WebhookRequest
         * @description A webhook of a task.
         */
        WebhookRequest: {
            /** @description http or https, on a public host, without user name and password */
            url: string;
            /** @description events to send; the four ends by default */
            events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
            /** @description the key's signing secret to use */
            secret?: string;
            /** @description format of the body: `native`, or the name of a compatible API */
            format?: string;
        };
        /**
         * TaskView
         * @description A task.
         */
        TaskView: {
            id: string;
            model: string;
            version: string;
            state: components["schemas"]["TaskState"];
            input: Record<string, unknown>;
            output: unknown | null;
            artifacts: components["schemas"]["ArtifactView"][];
            /** @description of the model, or all stages of a pipeline */
            warnings: components["schemas"]["TaskWarning"][];
            error: components["schemas"]["TaskError"] | null;
            attempt: number;
            max_attempts: number;
            /** @description place in the queue, 1 is next; null unless queued */
            position: number | null;
            /** @description seconds until it ends; null before any measurement */
            eta_s: components["schemas"]["EtaSeconds"] | null;
            /** Format: date-time */
            created_at: string;
            started_at: string | null;
            finished_at: string | null;
            timings: components["schemas"]["Timings"] | null;
            /** @description cost of the last attempt's share of the device, in millionths of a dollar; null before its end, or if the pool has no price */
            cost_micros: number | null;
            seed: number | null;
            user: string | null;
            metadata: unknown | null;
            /** @description removed data: `inputs` (and metadata), `outputs` */
            data_removed: string[];
            urls: components["schemas"]["TaskUrls"];
            /** @description changes by `degrade`, if any */
            degraded?: components["schemas"]["ChangeView"][];
            /** @description id of its trace, with telemetry.in_tasks */
            trace_id?: string;
            /** @description stages of a pipeline, in order */
            stages?: components["schemas"]["StageView"][];
            /** @description the task's webhook, if it has one */
            webhook?: components["schemas"]["WebhookView"];
            /** @description in lists: indexes of the viewer's favourite artifacts, if any */
            favourites?: number[];
        };
        /**
         * TaskState
         * @description State of a task.
         * @enum {unknown}
         */
        TaskState: "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded";
        /**
         * ArtifactView
         * @description An output file; the URL is signed and expires.
         */
        ArtifactView: {
            url: string;
            content_type: string;
            bytes: number;
            /** @default null */
            width: number | null;
            /** @default null */
            height: number | null;
            /**
             * @description WebP, at most 256 px wide; `w` may also be 128, 512 or 2048
             * @default null
             */
            thumbnail_url: string | null;
        };
        /**
         * TaskWarning
         * @description A warning of a model about a task that succeeds, such as an unknown word.
         */
        TaskWarning: {
            /** @description stable, to compare */
            code: string;
            /** @description one or two sentences for the user */
            message: string;
            /**
             * @description prompts that work better; often empty
             * @default []
             */
            suggestions: string[];
        };
        /**
         * TaskError
         * @description Why a task failed.
         */
        TaskError: {
            code: string;
            title: string;
            detail: string;
        };
        /**
         * EtaSeconds
         * @description Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`.
         */
        EtaSeconds: {
            low: number;
            median: number;
            high: number;
        };
        /**
         * Timings
         * @description Time of an attempt by phase, in seconds. `queue_s` covers everything before the last attempt.
         *
         *     `device_s` is the attempt's share of the device: less than `run_s` if it shared a batch. None if
         *     it equals `run_s`, or if the worker does not report it. `paid_micros` is the amount that the
         *     attempt has paid to others, such as an API, in millionths of a dollar. `cost_micros` adds the
         *     price of its share of the device, if the pool has a price; the backend sets it.
         *
         *     For a pipeline they are sums over the last attempts of its stages, and `queue_s` is the time in
         *     the queues of its stages.
         */
        Timings: {
            /** @default 0 */
            queue_s: number;
            /** @default 0 */
            load_s: number;
            /** @default 0 */
            run_s: number;
            /** @default 0 */
            encode_s: number;
            /** @default 0 */
            upload_s: number;
            /** @default null */
            device_s: number | null;
            /** @default null */
            cost_micros: number | null;
            /** @default 0 */
            paid_micros: number;
        };
        /**
         * TaskUrls
         * @description Related URLs of a task.
         */
        TaskUrls: {
            get: string;
            cancel: string;
            events: string;
        };
        /**
         * ChangeView
         * @description A field of a request that was changed so that the task could be accepted.
         */
        ChangeView: {
            /** @description JSON pointer into the request */
            field: string;
            /** @description the requested value */
            from: unknown;
            /** @description the value used */
            to: unknown;
        };
        /**
         * StageView
         * @description A stage of a pipeline.
         */
        StageView: {
            name: string;
            model: string;
            version: string;
            /** @description `succeeded`, `skipped` (its condition was false), `waiting` for an earlier stage, `not_reached` if the task ended before, or else the task's state */
            state: string;
            output: unknown | null;
            artifacts: components["schemas"]["ArtifactView"][];
            /** @description attempts of this stage so far */
            attempts: number;
            worker: string | null;
            started_at: string | null;
            finished_at: string | null;
            timings: components["schemas"]["Timings"] | null;
            /** @description cost of the last attempt's share of the device, in millionths of a dollar; null before its end, or if the pool has no price */
            cost_micros: number | null;
            seed: number | null;
        };
        /**
         * WebhookView
         * @description The webhook of a task.
         */
        WebhookView: {
            url: string;
            events: string[];
            format: string;
        };
        /**
         * BatchRequest
         * @description Many tasks; all are accepted or none.
         */
        BatchRequest: {
            /** @description each as in `POST /v1/tasks` */
            tasks: components["schemas"]["TaskRequest"][];
        };
        /**
         * BatchView
         * @description The tasks of a batch, in the order of the request.
         */
        BatchView: {
            tasks: components["schemas"]["TaskView"][];
        };
        /**
         * TaskList
         * @description Tasks, newest first; `cursor` gets the next page and is null at the end.
         */
        TaskList: {
            tasks: components["schemas"]["TaskView"][];
            cursor: string | null;
        };
        /**
         * EstimateView
         * @description The estimate for a task sent now. No task is created.
         */
        EstimateView: {
            /** @description whether the task would be accepted */
            is_accepted: boolean;
            /** @description the error it would get; null if accepted */
            refusal: components["schemas"]["RefusalView"] | null;
            /** @description the model that would run it, after `degrade` */
            model: string;
            version: string;
            /** @description the input after `degrade` */
            input: Record<string, unknown>;
            priority: number;
            /** @description the changes that `degrade` would make */
            degraded: components["schemas"]["ChangeView"][];
            /** @description 1 is next */
            position: number;
            /** @description seconds until the start; null if unknown */
            start_s: components["schemas"]["EtaSeconds"] | null;
            /** @description seconds until the end; null if unknown */
            finish_s: components["schemas"]["EtaSeconds"] | null;
            /** @description cost in millionths of a dollar that 9 of 10 such tasks do not exceed */
            cost_micros: number | null;
            /** @description live workers that have the model */
            workers: number;
        };
        /**
         * RefusalView
         * @description Why a task would not be accepted.
         */
        RefusalView: {
            code: string;
            status: number;
            title: string;
            detail: string;
            retry_after_s: number | null;
        };
        /**
         * FavouritesView
         * @description The viewer's favourites among a task's files.
         */
        FavouritesView: {
            task_id: string;
            /** @description their indexes in `artifacts` */
            favourites: number[];
        };
        /**
         * AllowanceView
         * @description The caller's limits; empty if there are none.
         */
        AllowanceView: {
            limits: components["schemas"]["Standing"][];
        };
        /**
         * Standing
         * @description One limit, or credits, and the remainder.
         */
        Standing: {
            /** @description name in the headers, such as `samples-day` */
            name: string;
            /** @description null for the key itself */
            user: string | null;
            /** @description tasks, samples, micros or credits */
            unit: string;
            /** @description day or month (UTC); null for credits */
            period: string | null;
            limit: number;
            left: number;
        };
        /**
         * ShareRequest
         * @description Options of a share link.
         */
        ShareRequest: {
            /** @description whether to show the prompt */
            with_prompt?: boolean;
            /** @description when the link expires; null for never */
            expires_at?: string | null;
        };
        /**
         * ShareView
         * @description A share link.
         */
        ShareView: {
            task_id: string;
            /** @description a page that needs no key and no scripts */
            url: string;
            /** @description the secret part of the link */
            token: string;
            with_prompt: boolean;
            /** Format: date-time */
            created_at: string;
            /** @description null for never */
            expires_at: string | null;
        };
        /**
         * ShareList
         * @description Share links; `cursor` gets the next page and is null at the end.
         */
        ShareList: {
            shares: components["schemas"]["ShareView"][];
            cursor: string | null;
        };
        /**
         * SharedView
         * @description The shared part of a task.
         */
        SharedView: {
            model: string;
            /** @description null if not shown */
            prompt: string | null;
            seed: number | null;
            /** @description numbers, switches and choices of the input */
            settings: Record<string, unknown>;
            /** Format: date-time */
            made_at: string;
            expires_at: string | null;
            pictures: components["schemas"]["SharedPictureView"][];
            /**
             * @description tasks that a visitor may run without another key
             * @default 0
             */
            guest_tasks: number;
        };
        /**
         * SharedPictureView
         * @description A shared picture: WebP without metadata.
         */
        SharedPictureView: {
            /** @description at most 2048 px wide */
            url: string;
            /** @description the same, at most 512 px wide */
            thumbnail_url: string;
            /** @description of the picture at `url`, in px */
            width: number | null;
            height: number | null;
        };
        /**
         * NewKeyView
         * @description A new key, or one with a new secret. The secret is shown only once.
         */
        NewKeyView: {
            id: string;
            name: string;
            scopes: components["schemas"]["Scope"][];
            /** Format: date-time */
            created_at: string;
            revoked_at: string | null;
            expires_at: string | null;
            /** @description last use, to the minute; null if never */
            used_at: string | null;
            /** @description end of the overlap of its last rotation */
            old_until: string | null;
            pools: string[];
            models: string[];
            limits: components["schemas"]["KeyLimits"];
            /** @description classes that it may use; empty for any */
            classes: string[];
            key: string;
        };
        /**
         * Scope
         * @description What a key may do; `admin` may do everything.
         * @enum {unknown}
         */
        Scope: "admin" | "client" | "worker";
        /**
         * KeyLimits
         * @description Limits of a key; null for the settings' value, 0 for no limit.
         */
        KeyLimits: {
            /** @default null */
            rate_per_s: number | null;
            /** @default null */
            burst: number | null;
            /** @default null */
            tasks_in_flight: number | null;
            /** @default null */
            tasks_per_day: number | null;
            /** @default null */
            streams: number | null;
        };
        /**
         * ModelList
         * @description Models, by name.
         */
        ModelList: {
            models: components["schemas"]["ModelView"][];
        };
        /**
         * ModelView
         * @description A version of a model.
         */
        ModelView: {
            name: string;
            version: string;
            description: string;
            stage: string;
            input_schema: Record<string, unknown>;
            output_schema: Record<string, unknown>;
            examples: Record<string, unknown>[];
            registered_at: string | null;
            /** @description live workers that have it */
            workers: number;
            /** @description recent task times, in seconds */
            service_s: components["schemas"]["EtaSeconds"] | null;
            /** @description the same by device */
            measured: components["schemas"]["MeasuredView"][];
            /** @description of code and weights, as SPDX or text; empty if not stated */
            licence: string;
            /** @description Markdown */
            credits: string;
            /** @description device memory; null if unknown */
            memory_bytes: number | null;
            /** @description price of a sample at a remote service, in millionths of a dollar; null if it has none */
            price_micros: number | null;
            /** @description the author's measurements, in seconds */
            speed: components["schemas"]["Speed"][];
            samples: components["schemas"]["SampleView"][];
            /**
             * @description seconds until a typical new task ends
             * @default null
             */
            eta_s: components["schemas"]["EtaSeconds"] | null;
            /**
             * @description seconds until a typical new task starts
             * @default null
             */
            start_s: components["schemas"]["EtaSeconds"] | null;
            /**
             * @description its stages; null for a model
             * @default null
             */
            pipeline: components["schemas"]["Pipeline"] | null;
            urls: {
                [key: string]: string;
            };
        };
        /**
         * MeasuredView
         * @description Recent run times of a model on one kind of device.
         */
        MeasuredView: {
            /** @description the workers' name for it, such as `cpu` or `cuda:0` */
            device: string;
            tasks: number;
            /** @description for each task, including delivery */
            median_s: number;
        };
        /**
         * Speed
         * @description Run time of a model, as its author measured it.
         *
         *     Args:
         *         device: Such as `one core of an Apple M2` or `NVIDIA L4`.
         *         what: Such as `512 x 512, 12 steps`.
         *         took_s: Seconds.
         *         measured_on: Day, such as `2026-11-25`; empty if unknown.
         */
        Speed: {
            device: string;
            what: string;
            took_s: number;
            /** @default  */
            measured_on: string;
        };
        /**
         * SampleView
         * @description A picture, sound or text on a model's card; its URL needs no key and never changes.
         */
        SampleView: {
            url: string;
            caption: string;
            content_type: string;
            /** @description in px, for a picture; else 0 */
            width: number;
            /** @description in px, for a picture; else 0 */
            height: number;
            /** @description the text, for a text; else empty */
            text: string;
        };
        /**
         * Pipeline
         * @description The stages of a pipeline, in order.
         */
        Pipeline: {
            stages: components["schemas"]["Stage"][];
            /** @default  */
            output: string | {
                [key: string]: string;
            };
            /** @default {} */
            defaults: Record<string, unknown>;
        };
        /**
         * Stage
         * @description One model's part in a pipeline.
         */
        Stage: {
            /** @default {} */
            take: {
                [key: string]: string | string[];
            };
            /** @default {} */
            fixed: Record<string, unknown>;
            /** @default  */
            when: string;
            /** @default  */
            reject: string;
            /** @default  */
            reason: string;
            /** @default false */
            counts: boolean;
            name: string;
            queue: string;
        };
        /**
         * AdoptionView
         * @description The rollout of a model.
         */
        AdoptionView: {
            model: string;
            /** @description if false, the newest version gets all tasks that name no version */
            is_staged: boolean;
            /** @description changes with every change of the stages */
            edition: string;
            live: string;
            canary: components["schemas"]["CanaryView"] | null;
            /** @description earlier live versions, latest first */
            former: string[];
            /** @description newest first */
            versions: components["schemas"]["VersionStageView"][];
            /** @description newest first */
            history: components["schemas"]["StageChange"][];
            /** @description a recommended action; empty for none */
            notice: string;
        };
        /**
         * CanaryView
         * @description A canary.
         */
        CanaryView: {
            version: string;
            share: number;
            since: string;
            sticky: string;
            rollback: components["schemas"]["RollbackRules"];
            /** @description whether a live worker has it; otherwise the live version gets its share */
            is_served: boolean;
            evidence: components["schemas"]["Verdict"];
        };
        /**
         * RollbackRules
         * @description Rules for automatic rollback.
         */
        RollbackRules: {
            /** @default true */
            automatic: boolean;
            /**
             * @description highest probability of rolling back a canary that is no worse
             * @default 0.001
             */
            false_alarm: number;
            /**
             * @description tolerated increase of the failure rate
             * @default 0.01
             */
            failures_by: number;
            /**
             * @description tolerated ratio of the 95th percentiles
             * @default 1.1
             */
            p95_by: number;
        };
        /**
         * Verdict
         * @description Whether a canary is worse, and why.
         */
        Verdict: {
            /** @description `early` (too early to tell), `fine` or `worse` */
            verdict: string;
            reason: string;
            /** @description likelihood ratio for a canary that fails more often */
            failures_evidence: number;
            /** @description the same for one that is slower */
            slowness_evidence: number;
            /** @description threshold for `worse` */
            needed_evidence: number;
            canary: components["schemas"]["Seen"];
            live: components["schemas"]["Seen"];
        };
        /**
         * Seen
         * @description Observations of a version since the canary started.
         */
        Seen: {
            /** @description first attempts, without tasks that were themselves at fault */
            attempts: number;
            failures: number;
            /** @description of the latest 200 runs, for one sample */
            p95_s: number | null;
        };
        /**
         * VersionStageView
         * @description The stage of a version.
         */
        VersionStageView: {
            version: string;
            /** @description `trial`, `canary`, `live` or `retired` */
            stage: string;
            /** @description share of the tasks that name no version, while served */
            share: number;
            /** @description workers that have it, seen in the last 30 s */
            workers: number;
            registered_at: string | null;
        };
        /**
         * StageChange
         * @description A change of a model's stages.
         */
        StageChange: {
            at: string;
            /** @description name of the key; empty if automatic */
            who: string;
            /** @description `canary`, `promote`, `rollback` or `retire` */
            action: string;
            version: string;
            share: number | null;
            reason: string;
        };
        /**
         * CanaryRequest
         * @description A request for a canary.
         */
        CanaryRequest: {
            version: string;
            /** @description share of the tasks that name no version */
            share: number;
            /**
             * @description keep each `user` of a key on one version (tasks without a user are assigned one by one), or each `key`
             * @enum {unknown}
             */
            sticky?: "key" | "user";
            rollback?: components["schemas"]["RollbackRules"];
            /** @description `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
            edition?: string | null;
        };
        /**
         * PromoteRequest
         * @description A request to promote a version or the canary.
         */
        PromoteRequest: {
            /** @description null for the canary, with `edition`. A version that was rolled back automatically needs `edition` too, or the answer is 409 */
            version?: string | null;
            /** @description `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
            edition?: string | null;
        };
        /**
         * RollbackRequest
         * @description A request to roll back.
         */
        RollbackRequest: {
            /** @description the canary, or the live version without a canary; 409 if it is another one by now; null for either */
            version?: string | null;
            /** @description reason for the history */
            reason?: string;
            /** @description `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
            edition?: string | null;
        };
        /**
         * RetireRequest
         * @description A request to retire a version.
         */
        RetireRequest: {
            version: string;
            /** @description `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
            edition?: string | null;
        };
        /**
         * StyleList
         * @description Styles, in display order.
         */
        StyleList: {
            styles: components["schemas"]["StyleView"][];
        };
        /**
         * StyleView
         * @description A style of the web app.
         */
        StyleView: {
            name: string;
            label: string;
            /** @description language → label */
            labels: {
                [key: string]: string;
            };
            /** @description template with `{prompt}` for the prompt; empty for no change */
            prompt: string;
            /** @description further input for the model */
            input: Record<string, unknown>;
            /** @description models it is for; empty for any */
            models: string[];
            /** @description URL without a key, with constant content */
            picture: string | null;
        };
        /**
         * UploadView
         * @description A stored input file; the URL is signed and expires.
         */
        UploadView: {
            key: string;
            url: string;
            content_type: string;
            bytes: number;
            /** Format: date-time */
            expires_at: string;
        };
        /**
         * StoredView
         * @description A stored output file.
         */
        StoredView: {
            key: string;
            bytes: number;
            content_type: string;
            etag: string;
        };
        /**
         * ComparisonRequest
         * @description A request for a comparison.
         */
        ComparisonRequest: {
            rows: components["schemas"]["ComparisonRow"][];
            /** @description shown to voters */
            name?: string;
            /** @description whether other keys may view and vote */
            is_shared?: boolean;
        };
        /**
         * ComparisonRow
         * @description One input, run by all models.
         */
        ComparisonRow: {
            /** @description ids of ended tasks, one for each model, in the same order in every row */
            tasks: string[];
            /**
             * @description text of the row; taken from the input if empty
             * @default
             */
            label: string;
        };
        /**
         * NewComparisonView
         * @description A new comparison.
         */
        NewComparisonView: {
            comparison: components["schemas"]["ComparisonView"];
            /** @description allows voting without a key; shown only once */
            permit: string;
        };
        /**
         * ComparisonView
         * @description A comparison of models. Their names are hidden until voting ends.
         */
        ComparisonView: {
            id: string;
            name: string;
            /** Format: date-time */
            created_at: string;
            /** @description when voting ended; null before */
            closed_at: string | null;
            is_shared: boolean;
            /** @description whether the caller may end voting */
            is_own: boolean;
            /** @description number of models */
            columns: number;
            votes: number;
            rows: components["schemas"]["RowView"][];
            /** @description null until voting ends */
            models: components["schemas"]["ComparedView"][] | null;
        };
        /**
         * RowView
         * @description A row, with its cells in random order.
         */
        RowView: {
            row: number;
            label: string;
            /** @description whether the row has at least two results */
            can_be_voted: boolean;
            /** @description number of the cell that `voter` chose; null for none or a tie */
            voted: number | null;
            /** @description whether `voter` voted for a tie */
            is_tie: boolean;
            /** @description null until voting ends */
            seed: number | null;
            cells: components["schemas"]["CellView"][];
        };
        /**
         * CellView
         * @description The result of one model; its name is hidden until voting ends.
         */
        CellView: {
            /** @description number for votes, from 1 */
            number: number;
            picture: components["schemas"]["PictureView"] | null;
            text: string | null;
            /** @description `owner/name:version`; null until voting ends */
            model: string | null;
            /** @description null until voting ends */
            task_id: string | null;
            /** @description null until voting ends */
            queue_s: number | null;
            /** @description null until voting ends */
            run_s: number | null;
            /** @description in millionths of a dollar; null until voting ends, or without a price */
            cost_micros: number | null;
        };
        /**
         * PictureView
         * @description A copy of a picture without metadata.
         */
        PictureView: {
            /** @description signed, expires */
            url: string;
            content_type: string;
            width: number;
            height: number;
        };
        /**
         * ComparedView
         * @description A compared model: votes, time, memory and cost, as of `created_at`.
         */
        ComparedView: {
            /** @description `owner/name:version` */
            model: string;
            wins: number;
            ties: number;
            losses: number;
            /** @description rows with a result */
            rows: number;
            /** @description rows without a result */
            failures: number;
            /** @description median wait of its tasks */
            queue_s: number | null;
            /** @description total load time */
            load_s: number;
            /** @description median run time of its tasks */
            run_s: number | null;
            /** @description device memory; null if unknown */
            memory_bytes: number | null;
            images: number;
            /** @description cost of all its tasks, in millionths of a dollar; null if unknown */
            cost_micros: number | null;
            /** @description cost of one picture, in millionths of a dollar */
            image_micros: number | null;
        };
        /**
         * ComparisonList
         * @description Comparisons, newest first; `cursor` gets the next page and is null at the end.
         */
        ComparisonList: {
            comparisons: components["schemas"]["ComparisonSummary"][];
            cursor: string | null;
        };
        /**
         * ComparisonSummary
         * @description A comparison in a list.
         */
        ComparisonSummary: {
            id: string;
            name: string;
            /** Format: date-time */
            created_at: string;
            /** @description when voting ended; null before */
            closed_at: string | null;
            is_shared: boolean;
            /** @description whether the caller may end voting */
            is_own: boolean;
            /** @description number of models */
            columns: number;
            votes: number;
            rows: number;
        };
        /**
         * VoteRequest
         * @description A vote on a row.
         */
        VoteRequest: {
            /** @description index of the row, from 0 */
            row: number;
            winner?: number | null;
            /** @description all cells are equally good; then there is no `winner` */
            tie?: boolean;
            /** @description name of the voter; empty for the key itself */
            voter?: string;
        };
        /**
         * VoteView
         * @description A stored vote.
         */
        VoteView: {
            row: number;
            winner: number | null;
            tie: boolean;
            voter: string;
            /** Format: date-time */
            at: string;
        };
        /**
         * BallotRequest
         * @description A vote with a permit instead of a key.
         */
        BallotRequest: {
            /** @description index of the row, from 0 */
            row: number;
            winner?: number | null;
            /** @description all cells are equally good; then there is no `winner` */
            tie?: boolean;
            voter: string;
            /** @description of the comparison */
            permit: string;
            voter_id?: string | null;
        };
        /**
         * RatingList
         * @description Ratings, best first, from all comparisons with ended voting.
         */
        RatingList: {
            ratings: components["schemas"]["RatingView"][];
            comparisons: number;
            votes: number;
        };
        /**
         * RatingView
         * @description A model's rating and its uncertainty.
         */
        RatingView: {
            /** @description `owner/name:version` */
            model: string;
            /** @description estimated strength */
            mu: number;
            /** @description its standard deviation */
            sigma: number;
            /** @description mu minus three sigma; the order of the list */
            ordinal: number;
            /** @description lower end of the 95 % interval */
            low: number;
            /** @description its upper end */
            high: number;
            /** @description votes on rows with a result of it */
            votes: number;
            wins: number;
            ties: number;
            /** @description in words */
            summary: string;
        };
        /**
         * EndpointRequest
         * @description A request for a standing webhook.
         */
        EndpointRequest: {
            /** @description http or https, on a public host, without user name and password */
            url: string;
            /** @description events to send; the four ends by default */
            events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
            /** @description `owner/name` or `owner/*`; empty for all models */
            models?: string[];
            /** @description description for people */
            description?: string;
            /** @description send events of all keys; needs an admin key */
            all_keys?: boolean;
            /** @description format of the body: `native`, or the name of a compatible API */
            format?: string;
        };
        /**
         * EndpointView
         * @description A standing webhook.
         */
        EndpointView: {
            id: string;
            key_id: string;
            url: string;
            events: string[];
            models: string[];
            description: string;
            all_keys: boolean;
            format: string;
            /** @description active, paused or disabled */
            state: string;
            /** @description reason, if not active */
            reason: string;
            /** Format: date-time */
            changed_at: string;
            /** Format: date-time */
            created_at: string;
            /** @description signing secret; present on creation, rotation and request */
            secret?: string;
        };
        /**
         * EndpointList
         * @description Standing webhooks, oldest first.
         */
        EndpointList: {
            webhooks: components["schemas"]["EndpointView"][];
        };
        /**
         * HookRotateRequest
         * @description The overlap with the previous secret.
         */
        HookRotateRequest: {
            /** @description seconds during which both secrets sign */
            overlap_s?: number;
        };
        /**
         * HookSecretView
         * @description A secret that signs webhooks.
         */
        HookSecretView: {
            /** @description `whsec_` and base64 */
            key: string;
            /** Format: date-time */
            created_at: string;
            /** @description end of the overlap with the previous secret */
            old_until: string | null;
        };
        /**
         * DeliveryList
         * @description Deliveries, newest first; `cursor` gets the next page and is null at the end.
         */
        DeliveryList: {
            deliveries: components["schemas"]["DeliveryView"][];
            cursor: string | null;
        };
        /**
         * DeliveryView
         * @description One event for one receiver.
         */
        DeliveryView: {
            /** @description the `webhook-id` */
            id: string;
            task: string;
            /** @description null for the task's own URL */
            endpoint: string | null;
            event: string;
            /**
             * Format: date-time
             * @description time of the event
             */
            at: string;
            /** @description waiting, delivered, failed or skipped */
            state: string;
            reason: string;
            /** @description attempts since it was first due or last replayed */
            tries: number;
            /** @description time of the next attempt */
            due_at: string | null;
            ended_at: string | null;
            attempts: components["schemas"]["TryView"][];
        };
        /**
         * TryView
         * @description One attempt to deliver.
         */
        TryView: {
            /** Format: date-time */
            at: string;
            took_s: number;
            status: number | null;
            /** @description `timeout`, `connection`, `refused_url`, `redirect`, `gone`, `status`, `unsendable` or `internal`; empty on success */
            error: string;
            detail: string;
            /** @description first bytes of the answer */
            answer: string;
        };
        /**
         * HookReplayRequest
         * @description The deliveries to replay.
         */
        HookReplayRequest: {
            /**
             * Format: date-time
             * @description replay deliveries of events since this time
             */
            since: string;
        };
        /**
         * HookReplayView
         * @description The number of replayed deliveries.
         */
        HookReplayView: {
            replayed: number;
        };
        /**
         * DeadReplayRequest
         * @description Which dead letters to replay: those named, or up to 1,000 of a model, or of all.
         */
        DeadReplayRequest: {
            ids?: string[] | null;
            model?: string | null;
        };
        /**
         * DeadReplayView
         * @description The result for each dead letter.
         */
        DeadReplayView: {
            replayed: components["schemas"]["Replayed"][];
        };
        /**
         * Replayed
         * @description A dead letter and the task that repeats it; `error` says why there is none.
         */
        Replayed: {
            id: string;
            /** @default null */
            new_id: string | null;
            /** @default null */
            error: string | null;
        };
        /**
         * QueueList
         * @description Queues that are not empty, by name.
         */
        QueueList: {
            queues: components["schemas"]["QueueView"][];
        };
        /**
         * QueueView
         * @description A queue.
         */
        QueueView: {
            queue: string;
            ready: number;
            delayed: number;
            running: number;
            ready_samples: number;
            oldest_ready_at: string | null;
            /** @description seconds until a task sent now would end */
            eta_s: components["schemas"]["EtaSeconds"] | null;
            /** @description seconds until a task sent now would start */
            start_s: components["schemas"]["EtaSeconds"] | null;
            /** @description waiting tasks of the model by class, over all its queues */
            classes: components["schemas"]["ClassView"][];
        };
        /**
         * ClassView
         * @description Waiting tasks of a model in one class.
         */
        ClassView: {
            name: string;
            priority: number;
            ready: number;
            ready_samples: number;
        };
        /**
         * WorkerList
         * @description Workers, oldest first.
         */
        WorkerList: {
            workers: components["schemas"]["WorkerView"][];
            /**
             * @description cold starts of workers that are not ready yet
             * @default []
             */
            starting: components["schemas"]["StartupView"][];
        };
        /**
         * WorkerView
         * @description A worker.
         */
        WorkerView: {
            id: string;
            name: string;
            pool: string;
            /** @description idle, busy, draining, lost or gone */
            state: string;
            models: {
                [key: string]: string;
            };
            slots: number;
            /** @description tasks under lease, as known to this backend */
            held: number;
            /** @description models on its device; null if all always are, or if unknown */
            residents: string[] | null;
            /** @description model → number of loads and changes, as known to this backend */
            switches: {
                [key: string]: components["schemas"]["SwitchesView"];
            };
            device: string;
            host: string;
            pid: number;
            /** @description the provider's id of its machine; null if no provider launched it */
            instance: string | null;
            /** @description version of Swell */
            release: string;
            /** @description clock difference at registration, in seconds */
            clock_ahead_s: number;
            /** Format: date-time */
            registered_at: string;
            /** Format: date-time */
            seen_at: string;
            gone_at: string | null;
            /**
             * @description its cold start by phase; null if unknown
             * @default null
             */
            startup: components["schemas"]["StartupView"] | null;
        };
        /**
         * SwitchesView
         * @description How often a worker has loaded or changed a model since it started.
         */
        SwitchesView: {
            /** @description loads from disk */
            disk: number;
            /** @description loads from host memory */
            host: number;
            /** @description changes of LoRAs */
            loras: number;
        };
        /**
         * StartupView
         * @description A cold start of a worker, a restart of its model process, or a switch of models.
         */
        StartupView: {
            id: string;
            /** @description cold, restart or switch */
            kind: string;
            /** @description starting, died, ready or done (the first outcome) */
            state: string;
            pool: string;
            models: string[];
            host: string;
            pid: number;
            begun_at: string | null;
            seen_at: string | null;
            /** @description seconds until it takes tasks */
            ready_s: number | null;
            /** @description the same plus the first task, without the wait for it */
            whole_s: number | null;
            spans: components["schemas"]["SpanView"][];
        };
        /**
         * SpanView
         * @description A phase as an interval, in seconds since its startup began; phases may overlap.
         */
        SpanView: {
            /** @description boot, pull, import, fetch, load, warm or first_task */
            phase: string;
            /** @description null for work shared by all models */
            model: string | null;
            start_s: number;
            /** @description null while running, or if the startup died in it */
            end_s: number | null;
            /**
             * @description the cache that served it: compiled, host, disk, bucket; empty for none
             * @default
             */
            from: string;
        };
        /**
         * KeyRequest
         * @description A request for a key. Limits default to the settings.
         */
        KeyRequest: {
            /** @description description for people */
            name: string;
            /** @description client, worker or admin */
            scopes?: components["schemas"]["Scope"][];
            expires_in_s?: number | null;
            /** @description pools that workers with this key may join; empty for any */
            pools?: string[];
            /** @description models its workers may have, or `owner/*`; empty for any */
            models?: string[];
            rate_per_s?: number | null;
            burst?: number | null;
            tasks_in_flight?: number | null;
            tasks_per_day?: number | null;
            streams?: number | null;
            /** @description classes it may use, default first; empty for any */
            classes?: string[];
        };
        /**
         * RotateRequest
         * @description A request to rotate a secret.
         */
        RotateRequest: {
            /** @description seconds during which the previous secret works */
            overlap_s?: number;
        };
        /**
         * RotateSigningRequest
         * @description A request to rotate the URL signing secret.
         */
        RotateSigningRequest: {
            /** @description invalidate all URLs signed before */
            revoke?: boolean;
        };
        /**
         * SigningView
         * @description The URL signing secrets, without their values.
         */
        SigningView: {
            /**
             * Format: date-time
             * @description when the newest takes effect
             */
            signs_from: string;
            /** @description when the last older URL expires; null for at once */
            others_until: string | null;
        };
        /**
         * AuditList
         * @description Entries of the audit log, newest first; `cursor` gets the next page, null at the end.
         */
        AuditList: {
            entries: components["schemas"]["AuditEntry"][];
            cursor: string | null;
        };
        /**
         * AuditEntry
         * @description An action of an operator, or an attempt, in the audit log.
         */
        AuditEntry: {
            id: string;
            /** Format: date-time */
            at: string;
            /** @default  */
            key_id: string;
            /** @default  */
            key_name: string;
            /**
             * @description address of the caller, or of the proxy
             * @default
             */
            address: string;
            /** @description such as `keys.create` */
            action: string;
            /**
             * @description id of the affected object; empty for none
             * @default
             */
            target: string;
            /** @description HTTP status of the answer */
            status: number;
            /** @default  */
            detail: string;
            /** @default  */
            request_id: string;
        };
        /**
         * KeyList
         * @description Keys, revoked ones included.
         */
        KeyList: {
            keys: components["schemas"]["KeyView"][];
        };
        /**
         * KeyView
         * @description A key, without its secret.
         */
        KeyView: {
            id: string;
            name: string;
            scopes: components["schemas"]["Scope"][];
            /** Format: date-time */
            created_at: string;
            revoked_at: string | null;
            expires_at: string | null;
            /** @description last use, to the minute; null if never */
            used_at: string | null;
            /** @description end of the overlap of its last rotation */
            old_until: string | null;
            pools: string[];
            models: string[];
            limits: components["schemas"]["KeyLimits"];
            /** @description classes that it may use; empty for any */
            classes: string[];
        };
        /**
         * PoolList
         * @description Pools by name.
         */
        PoolList: {
            pools: components["schemas"]["PoolView"][];
        };
        /**
         * PoolView
         * @description A pool of workers.
         */
        PoolView: {
            pool: string;
            /** @description state → number */
            workers: {
                [key: string]: number;
            };
            /** @description workers that are not ready yet */
            starting: number;
            /** @description capacity of its live workers, in tasks */
            slots: number;
            /** @description tasks that they hold, as known to this backend */
            held: number;
            /** @description from the last 200 startups of each kind and set of models */
            times: components["schemas"]["PhaseTimesView"][];
            /**
             * @description null if nothing launches its workers
             * @default null
             */
            scaling: components["schemas"]["PoolScalingView"] | null;
        };
        /**
         * PhaseTimesView
         * @description Durations of a phase: quantiles that include unfinished ones (Kaplan-Meier).
         */
        PhaseTimesView: {
            /** @description cold, restart or switch */
            kind: string;
            model: string;
            /** @description boot, pull, import, fetch, load, warm, first_task; ready: until it takes tasks; whole: ready and the first task */
            phase: string;
            p50_s: number | null;
            p90_s: number | null;
            p99_s: number | null;
            /** @description quantiles that are lower bounds */
            at_least: string[];
            /** @description number of finished ones */
            observed: number;
            /** @description number of running ones, and of those that died in it */
            not_over: number;
        };
        /**
         * PoolScalingView
         * @description State of a pool that launches workers on demand.
         */
        PoolScalingView: {
            provider: string;
            models: string[];
            /** @description workers wanted */
            desired: number;
            /** @description workers that take tasks */
            ready: number;
            /** @description ready workers that hold tasks */
            busy: number;
            /** @description launched, and not ready yet */
            booting: number;
            /** @description workers that finish their tasks and exit */
            draining: number;
            least: number;
            most: number;
            /** @description price of a worker-hour, in millionths of a dollar */
            hour_micros: number | null;
            /** @description source: a setting, the cloud, or a row of Swell's price list */
            price_source: string | null;
            /** @description day on which the price was read; null for a setting */
            price_read_on: string | null;
            /** @description when the cloud reported it; null for other sources */
            price_told_at: string | null;
            /** @description why it is not the cloud's current price, if it should be */
            price_note: string | null;
            /** @description whether the provider may reclaim the machines */
            spot: boolean;
            location: string | null;
            /** @description seconds until the provider is asked again */
            closed_s: number;
            why_closed: string | null;
            /** @description seconds from launch until it takes tasks */
            start_p50_s: number;
            start_p95_s: number;
            /** @description action → number of workers, as in decisions */
            counts: {
                [key: string]: number;
            };
            /** @description how machines ended → number */
            ends: {
                [key: string]: number;
            };
            /** @description reasons for the wanted number */
            reasons: string[];
            /** @description latest decision about this pool */
            decision: components["schemas"]["Decision"] | null;
        };
        /**
         * Decision
         * @description A scaling decision, or an event of a pool.
         */
        Decision: {
            /** Format: date-time */
            at: string;
            /** @description a pool, or a model for relief */
            about: string;
            /** @description launch, cancel (a boot), drain, end (a machine), hurry (the provider reclaims it), refused or failed (launches or boots), lost (it ended by itself) or relief (demand exceeds supply) */
            what: string;
            /** @description number of workers */
            n: number;
            /** @description reasons, one sentence each */
            why: string[];
        };
        /**
         * LedgerList
         * @description Entries of the ledger, latest first.
         */
        LedgerList: {
            entries: components["schemas"]["LedgerEntryView"][];
            cursor: number | null;
        };
        /**
         * LedgerEntryView
         * @description An entry of the ledger.
         */
        LedgerEntryView: {
            id: string;
            /** Format: date-time */
            at: string;
            /** @description cold_start, attempt, failed, idle or wasted */
            kind: string;
            pool: string;
            models: string[];
            worker_id: string | null;
            /** @description its startup or attempt */
            ref: string;
            /** @description how that ended; `paid` for payments to remote services */
            outcome: string;
            seconds: number;
            /** @description millionths of a dollar; null if the pool has no price */
            cost_micros: number | null;
            /** @description key of the attempts */
            key_id: string | null;
            user: string | null;
            attempts: number;
            images: number;
        };
        /**
         * ScalingView
         * @description The autoscaler's state and decisions.
         */
        ScalingView: {
            /** @description null if no autoscaler runs */
            at: string | null;
            /** @description the process that decides */
            leader: string | null;
            /** @description age of its data, in seconds */
            age_s: number | null;
            /** @description spent by all pools today (UTC), in millionths of a dollar */
            spent_micros: number | null;
            models: components["schemas"]["ModelOutlook"][];
            /** @description newest first */
            decisions: components["schemas"]["Decision"][];
        };
        /**
         * ModelOutlook
         * @description Outlook for new tasks of a model.
         */
        ModelOutlook: {
            model: string;
            /** @description seconds until a worker takes the first task: 0 if one is ready, null if none is launched */
            ready_in_s: number | null;
            /** @description share of new tasks that can start in time */
            admitted: number;
            /** @description wait of a new task if not all can */
            wait_s: number;
            /** @description factor by which tasks would have to shrink so that all can */
            speedup: number;
        };
        /**
         * CostsList
         * @description Costs of some days.
         */
        CostsList: {
            /** Format: date */
            from: string;
            /** Format: date */
            to: string;
            by: string;
            /** @description price of an image elsewhere, as set by the operator */
            api_image_micros: number | null;
            costs: components["schemas"]["CostView"][];
            /** @description sum of the rows beyond `limit`; null if none */
            others: components["schemas"]["CostView"] | null;
            total: components["schemas"]["CostView"];
        };
        /**
         * CostView
         * @description A cost row, with its share of unassigned costs.
         */
        CostView: {
            /** @description model, user, key id, pool or day; null for unassigned costs */
            name: string | null;
            attempts: number;
            /** @description successful samples */
            images: number;
            seconds: components["schemas"]["CostKinds"];
            /** @description null if no pool has a price */
            micros: components["schemas"]["CostMicros"] | null;
            /** @description cost of an image, from successful attempts only */
            image_micros: number | null;
            /** @description the same with all other costs included */
            loaded_image_micros: number | null;
            /** @description cost of as many images at `costs.api_image_micros` */
            api_micros: number | null;
        };
        /**
         * CostKinds
         * @description Worker seconds by use.
         */
        CostKinds: {
            /** @description successful attempts */
            attempts: number;
            /** @description failed attempts */
            failed: number;
            /** @description idle time */
            idle: number;
            /** @description cold starts */
            cold: number;
            /** @description restarts, model switches, lost contact, minimum billing */
            wasted: number;
            total: number;
        };
        /**
         * CostMicros
         * @description The same in millionths of a dollar, for pools with a price.
         */
        CostMicros: {
            attempts: number;
            failed: number;
            idle: number;
            cold: number;
            wasted: number;
            total: number;
        };
        /**
         * QuotaList
         * @description Quotas, by key and user.
         */
        QuotaList: {
            quotas: components["schemas"]["QuotaView"][];
        };
        /**
         * QuotaView
         * @description A quota and its remainder.
         */
        QuotaView: {
            key_id: string;
            /** @default null */
            user: string | null;
            /** @default null */
            tasks_per_day: number | null;
            /** @default null */
            tasks_per_month: number | null;
            /**
             * @description pictures
             * @default null
             */
            samples_per_day: number | null;
            /**
             * @description pictures
             * @default null
             */
            samples_per_month: number | null;
            /**
             * @description cost, in millionths of a dollar
             * @default null
             */
            micros_per_day: number | null;
            /**
             * @description cost, in millionths of a dollar
             * @default null
             */
            micros_per_month: number | null;
            /**
             * @description refuse tasks that the credits do not cover
             * @default false
             */
            is_prepaid: boolean;
            /** @description empty if `user` is `*` */
            left: components["schemas"]["Standing"][];
        };
        /**
         * QuotaRequest
         * @description How much a key, or a user of it, may use; null for any amount. Replaces the quota so far.
         *
         *     Days and months are those of UTC.
         */
        QuotaRequest: {
            /** @description of the key */
            key_id: string;
            /** @description null for the key itself; `*` for every user without a quota */
            user?: string | null;
            tasks_per_day?: number | null;
            tasks_per_month?: number | null;
            /** @description pictures */
            samples_per_day?: number | null;
            /** @description pictures */
            samples_per_month?: number | null;
            /** @description cost, in millionths of a dollar */
            micros_per_day?: number | null;
            /** @description cost, in millionths of a dollar */
            micros_per_month?: number | null;
            /** @description refuse tasks that the credits do not cover */
            is_prepaid?: boolean;
        };
        /**
         * CreditsList
         * @description Accounts by key and user, and grants, newest first.
         */
        CreditsList: {
            accounts: components["schemas"]["AccountView"][];
            entries: components["schemas"]["Credit"][];
        };
        /**
         * AccountView
         * @description Credits of a key or a user, in millionths of a dollar.
         */
        AccountView: {
            key_id: string;
            user: string | null;
            granted_micros: number;
            spent_micros: number;
            /** @description held for unfinished tasks */
            held_micros: number;
            /** @description negative if tasks cost more than was held */
            left_micros: number;
        };
        /**
         * Credit
         * @description A grant of credits, or their removal.
         */
        Credit: {
            id: string;
            key_id: string;
            /** @default null */
            user: string | null;
            micros: number;
            /** Format: date-time */
            at: string;
            /** @default  */
            note: string;
        };
        /**
         * CreditRequest
         * @description A grant of credits.
         */
        CreditRequest: {
            /** @description of the key */
            key_id: string;
            /** @description null for the key itself */
            user?: string | null;
            /** @description millionths of a dollar; negative to remove */
            micros: number;
            id?: string | null;
            /** @description description for people */
            note?: string;
        };
        /**
         * GrantView
         * @description A grant and the new balance.
         */
        GrantView: {
            id: string;
            /** @description false if this id was granted before */
            is_new: boolean;
            account: components["schemas"]["AccountView"];
        };
        /**
         * HealthView
         * @description Whether the service works.
         */
        HealthView: {
            status: string;
            /** @default {} */
            checks: {
                [key: string]: string;
            };
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type Problem = components['schemas']['Problem'];
export type FieldProblem = components['schemas']['FieldProblem'];
export type ErrorEcho = components['schemas']['ErrorEcho'];
export type TaskRequest = components['schemas']['TaskRequest'];
export type DegradeRequest = components['schemas']['DegradeRequest'];
export type WebhookRequest = components['schemas']['WebhookRequest'];
export type TaskView = components['schemas']['TaskView'];
export type TaskState = components['schemas']['TaskState'];
export type ArtifactView = components['schemas']['ArtifactView'];
export type TaskWarning = components['schemas']['TaskWarning'];
export type TaskError = components['schemas']['TaskError'];
export type EtaSeconds = components['schemas']['EtaSeconds'];
export type Timings = components['schemas']['Timings'];
export type TaskUrls = components['schemas']['TaskUrls'];
export type ChangeView = components['schemas']['ChangeView'];
export type StageView = components['schemas']['StageView'];
export type WebhookView = components['schemas']['WebhookView'];
export type BatchRequest = components['schemas']['BatchRequest'];
export type BatchView = components['schemas']['BatchView'];
export type TaskList = components['schemas']['TaskList'];
export type EstimateView = components['schemas']['EstimateView'];
export type RefusalView = components['schemas']['RefusalView'];
export type FavouritesView = components['schemas']['FavouritesView'];
export type AllowanceView = components['schemas']['AllowanceView'];
export type Standing = components['schemas']['Standing'];
export type ShareRequest = components['schemas']['ShareRequest'];
export type ShareView = components['schemas']['ShareView'];
export type ShareList = components['schemas']['ShareList'];
export type SharedView = components['schemas']['SharedView'];
export type SharedPictureView = components['schemas']['SharedPictureView'];
export type NewKeyView = components['schemas']['NewKeyView'];
export type Scope = components['schemas']['Scope'];
export type KeyLimits = components['schemas']['KeyLimits'];
export type ModelList = components['schemas']['ModelList'];
export type ModelView = components['schemas']['ModelView'];
export type MeasuredView = components['schemas']['MeasuredView'];
export type Speed = components['schemas']['Speed'];
export type SampleView = components['schemas']['SampleView'];
export type Pipeline = components['schemas']['Pipeline'];
export type Stage = components['schemas']['Stage'];
export type AdoptionView = components['schemas']['AdoptionView'];
export type CanaryView = components['schemas']['CanaryView'];
export type RollbackRules = components['schemas']['RollbackRules'];
export type Verdict = components['schemas']['Verdict'];
export type Seen = components['schemas']['Seen'];
export type VersionStageView = components['schemas']['VersionStageView'];
export type StageChange = components['schemas']['StageChange'];
export type CanaryRequest = components['schemas']['CanaryRequest'];
export type PromoteRequest = components['schemas']['PromoteRequest'];
export type RollbackRequest = components['schemas']['RollbackRequest'];
export type RetireRequest = components['schemas']['RetireRequest'];
export type StyleList = components['schemas']['StyleList'];
export type StyleView = components['schemas']['StyleView'];
export type UploadView = components['schemas']['UploadView'];
export type StoredView = components['schemas']['StoredView'];
export type ComparisonRequest = components['schemas']['ComparisonRequest'];
export type ComparisonRow = components['schemas']['ComparisonRow'];
export type NewComparisonView = components['schemas']['NewComparisonView'];
export type ComparisonView = components['schemas']['ComparisonView'];
export type RowView = components['schemas']['RowView'];
export type CellView = components['schemas']['CellView'];
export type PictureView = components['schemas']['PictureView'];
export type ComparedView = components['schemas']['ComparedView'];
export type ComparisonList = components['schemas']['ComparisonList'];
export type ComparisonSummary = components['schemas']['ComparisonSummary'];
export type VoteRequest = components['schemas']['VoteRequest'];
export type VoteView = components['schemas']['VoteView'];
export type BallotRequest = components['schemas']['BallotRequest'];
export type RatingList = components['schemas']['RatingList'];
export type RatingView = components['schemas']['RatingView'];
export type EndpointRequest = components['schemas']['EndpointRequest'];
export type EndpointView = components['schemas']['EndpointView'];
export type EndpointList = components['schemas']['EndpointList'];
export type HookRotateRequest = components['schemas']['HookRotateRequest'];
export type HookSecretView = components['schemas']['HookSecretView'];
export type DeliveryList = components['schemas']['DeliveryList'];
export type DeliveryView = components['schemas']['DeliveryView'];
export type TryView = components['schemas']['TryView'];
export type HookReplayRequest = components['schemas']['HookReplayRequest'];
export type HookReplayView = components['schemas']['HookReplayView'];
export type DeadReplayRequest = components['schemas']['DeadReplayRequest'];
export type DeadReplayView = components['schemas']['DeadReplayView'];
export type Replayed = components['schemas']['Replayed'];
export type QueueList = components['schemas']['QueueList'];
export type QueueView = components['schemas']['QueueView'];
export type ClassView = components['schemas']['ClassView'];
export type WorkerList = components['schemas']['WorkerList'];
export type WorkerView = components['schemas']['WorkerView'];
export type SwitchesView = components['schemas']['SwitchesView'];
export type StartupView = components['schemas']['StartupView'];
export type SpanView = components['schemas']['SpanView'];
export type KeyRequest = components['schemas']['KeyRequest'];
export type RotateRequest = components['schemas']['RotateRequest'];
export type RotateSigningRequest = components['schemas']['RotateSigningRequest'];
export type SigningView = components['schemas']['SigningView'];
export type AuditList = components['schemas']['AuditList'];
export type AuditEntry = components['schemas']['AuditEntry'];
export type KeyList = components['schemas']['KeyList'];
export type KeyView = components['schemas']['KeyView'];
export type PoolList = components['schemas']['PoolList'];
export type PoolView = components['schemas']['PoolView'];
export type PhaseTimesView = components['schemas']['PhaseTimesView'];
export type PoolScalingView = components['schemas']['PoolScalingView'];
export type Decision = components['schemas']['Decision'];
export type LedgerList = components['schemas']['LedgerList'];
export type LedgerEntryView = components['schemas']['LedgerEntryView'];
export type ScalingView = components['schemas']['ScalingView'];
export type ModelOutlook = components['schemas']['ModelOutlook'];
export type CostsList = components['schemas']['CostsList'];
export type CostView = components['schemas']['CostView'];
export type CostKinds = components['schemas']['CostKinds'];
export type CostMicros = components['schemas']['CostMicros'];
export type QuotaList = components['schemas']['QuotaList'];
export type QuotaView = components['schemas']['QuotaView'];
export type QuotaRequest = components['schemas']['QuotaRequest'];
export type CreditsList = components['schemas']['CreditsList'];
export type AccountView = components['schemas']['AccountView'];
export type Credit = components['schemas']['Credit'];
export type CreditRequest = components['schemas']['CreditRequest'];
export type GrantView = components['schemas']['GrantView'];
export type HealthView = components['schemas']['HealthView'];
export type $defs = Record<string, never>;
export interface operations {
    tasks_list_tasks: {
        parameters: {
            query?: {
                /** @description State of a task. */
                state?: "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded";
                /** @description `owner/name` */
                model?: string;
                /** @description the end user of the request */
                user?: string;
                /** @description up to eight words of the input, or their starts */
                q?: string;
                since?: string;
                until?: string;
                /** @description user of this key; the key itself by default */
                viewer?: string;
                /** @description only tasks with a favourite of the viewer */
                favourite?: boolean;
                /** @description `cursor` of the previous page */
                cursor?: string;
                /** @description tasks on a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of tasks, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskList"];
                };
            };
        };
    };
    tasks_create: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "model": "demo/upper",
                 *       "input": {
                 *         "text": "hello"
                 *       },
                 *       "user": "anna",
                 *       "finish_by_s": 60
                 *     }
                 */
                "application/json": components["schemas"]["TaskRequest"];
            };
        };
        responses: {
            /** @description The ended task, or its file of the preferred type: `Location` and `Swell-Task` name the task, `Content-Location` is the file's URL */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                    "image/*": unknown;
                    "audio/*": unknown;
                    "video/*": unknown;
                    "text/plain": unknown;
                    "application/octet-stream": unknown;
                };
            };
            /** @description The task, still queued or running */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    tasks_create_batch: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "tasks": [
                 *         {
                 *           "model": "demo/upper",
                 *           "input": {
                 *             "text": "hello"
                 *           },
                 *           "user": "anna",
                 *           "finish_by_s": 60
                 *         }
                 *       ]
                 *     }
                 */
                "application/json": components["schemas"]["BatchRequest"];
            };
        };
        responses: {
            /** @description The tasks, all ended */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchView"];
                };
            };
            /** @description The tasks, in the order of the request */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchView"];
                };
            };
        };
    };
    tasks_get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    erasure_erase: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task without its data; all of its objects are deleted */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    tasks_cancel: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task; a running one stops at its next step */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    tasks_retry: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The ended task */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
            /** @description The new task */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    admission_show_estimate: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "model": "demo/upper",
                 *       "input": {
                 *         "text": "hello"
                 *       },
                 *       "user": "anna",
                 *       "finish_by_s": 60
                 *     }
                 */
                "application/json": components["schemas"]["TaskRequest"];
            };
        };
        responses: {
            /** @description The estimate */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EstimateView"];
                };
            };
        };
    };
    events_stream_events: {
        parameters: {
            query?: {
                /** @description id of the last event seen */
                after?: number;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Server-sent events */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": unknown;
                };
            };
            /** @description The reader has already seen the end */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
        };
    };
    favourites_favour: {
        parameters: {
            query?: {
                /** @description index of the file, from 0 */
                artifact?: number;
                /** @description user of this key; the key itself by default */
                viewer?: string;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The viewer's favourites among its files */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FavouritesView"];
                };
            };
        };
    };
    favourites_disfavour: {
        parameters: {
            query?: {
                /** @description index of the file, from 0 */
                artifact?: number;
                /** @description user of this key; the key itself by default */
                viewer?: string;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The viewer's favourites among its files */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FavouritesView"];
                };
            };
        };
    };
    accounts_show_allowance: {
        parameters: {
            query?: {
                /** @description also show this user's limits */
                user?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The remainder of each limit */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AllowanceView"];
                };
            };
        };
    };
    shares_get_share: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The link */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ShareView"];
                };
            };
        };
    };
    shares_share: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "with_prompt": false
                 *     }
                 */
                "application/json": components["schemas"]["ShareRequest"];
            };
        };
        responses: {
            /** @description The link */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ShareView"];
                };
            };
        };
    };
    shares_unshare: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The link as it was */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ShareView"];
                };
            };
        };
    };
    shares_list_shares: {
        parameters: {
            query?: {
                /** @description only the link of this task */
                task_id?: string;
                /** @description `cursor` of the previous page */
                cursor?: string;
                /** @description links on a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Links, newest tasks first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ShareList"];
                };
            };
        };
    };
    shares_look: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                token: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The shared part of the task */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["SharedView"];
                };
            };
        };
    };
    shares_make_guest_key: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                token: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A key for `limits.guest_tasks` tasks within a day */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["NewKeyView"];
                };
            };
        };
    };
    shares_show_picture: {
        parameters: {
            query?: {
                /** @description largest width, in px: 128, 256, 512 or 2048 */
                w?: number;
            };
            header?: never;
            path: {
                token: string;
                number: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The picture */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/webp": unknown;
                };
            };
        };
    };
    operators_list_models: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The current version of every model */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ModelList"];
                };
            };
        };
    };
    operators_get_model: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The model's card, schemas and measured times */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ModelView"];
                };
            };
        };
    };
    operators_list_versions: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Its versions, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ModelList"];
                };
            };
        };
    };
    gallery_show_sample: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
                digest: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The picture, sound or text */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/webp": unknown;
                };
            };
        };
    };
    adoption_show_adoption: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The stages of the model's versions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AdoptionView"];
                };
            };
        };
    };
    adoption_start_version_canary: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "version": "3f2a9c1be07d",
                 *       "share": 0.05
                 *     }
                 */
                "application/json": components["schemas"]["CanaryRequest"];
            };
        };
        responses: {
            /** @description The stages of the model's versions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AdoptionView"];
                };
            };
        };
    };
    adoption_promote_version: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "version": "3f2a9c1be07d"
                 *     }
                 */
                "application/json": components["schemas"]["PromoteRequest"];
            };
        };
        responses: {
            /** @description The stages of the model's versions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AdoptionView"];
                };
            };
        };
    };
    adoption_roll_back_version: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "reason": "hands have six fingers"
                 *     }
                 */
                "application/json": components["schemas"]["RollbackRequest"];
            };
        };
        responses: {
            /** @description The stages of the model's versions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AdoptionView"];
                };
            };
        };
    };
    adoption_retire_version: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                owner: string;
                name: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "version": "3f2a9c1be07d"
                 *     }
                 */
                "application/json": components["schemas"]["RetireRequest"];
            };
        };
        responses: {
            /** @description The stages of the model's versions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AdoptionView"];
                };
            };
        };
    };
    styles_list_styles: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Styles, in display order */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["StyleList"];
                };
            };
        };
    };
    styles_show_picture: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                digest: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The picture */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/webp": unknown;
                };
            };
        };
    };
    files_upload: {
        parameters: {
            query?: {
                /** @description Swell keeps its extension */
                filename?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/octet-stream": unknown;
                "image/png": unknown;
                "multipart/form-data": unknown;
            };
        };
        responses: {
            /** @description The stored file and its URL, for use in an input */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["UploadView"];
                };
            };
        };
    };
    files_get_artifact: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                key: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The file */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/octet-stream": unknown;
                };
            };
            /** @description The requested range */
            206: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/octet-stream": unknown;
                };
            };
        };
    };
    files_put_artifact: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                key: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/octet-stream": unknown;
                "image/png": unknown;
            };
        };
        responses: {
            /** @description The stored file */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["StoredView"];
                };
            };
        };
    };
    comparisons_list_comparisons: {
        parameters: {
            query?: {
                /** @description `cursor` of the previous page */
                cursor?: string;
                /** @description comparisons on a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of comparisons, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ComparisonList"];
                };
            };
        };
    };
    comparing_create_comparison: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "rows": [
                 *         {
                 *           "tasks": [
                 *             "0197a1",
                 *             "0197a2"
                 *           ]
                 *         }
                 *       ],
                 *       "name": "foxes"
                 *     }
                 */
                "application/json": components["schemas"]["ComparisonRequest"];
            };
        };
        responses: {
            /** @description The comparison, blind */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["NewComparisonView"];
                };
            };
        };
    };
    comparisons_get_comparison: {
        parameters: {
            query?: {
                /** @description voter to show votes of; the key itself by default */
                voter?: string;
                /** @description show the names during voting; needs an `admin` key */
                names?: boolean;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The comparison */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ComparisonView"];
                };
            };
        };
    };
    comparisons_drop_comparison: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The comparison as it was */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ComparisonView"];
                };
            };
        };
    };
    comparisons_close_comparison: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The comparison with the models' names */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ComparisonView"];
                };
            };
        };
    };
    comparisons_cast_vote: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "row": 0,
                 *       "winner": 2,
                 *       "voter": "anna"
                 *     }
                 */
                "application/json": components["schemas"]["VoteRequest"];
            };
        };
        responses: {
            /** @description The vote */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["VoteView"];
                };
            };
        };
    };
    comparisons_cast_ballot: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "permit": "T",
                 *       "row": 0,
                 *       "tie": true,
                 *       "voter": "anna"
                 *     }
                 */
                "application/json": components["schemas"]["BallotRequest"];
            };
        };
        responses: {
            /** @description The vote */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["VoteView"];
                };
            };
        };
    };
    comparisons_list_ratings: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Ratings, best first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["RatingList"];
                };
            };
        };
    };
    webhooks_list_endpoints: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Webhooks, oldest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointList"];
                };
            };
        };
    };
    webhooks_create: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "url": "https://shop.example/hooks",
                 *       "events": [
                 *         "succeeded",
                 *         "failed"
                 *       ]
                 *     }
                 */
                "application/json": components["schemas"]["EndpointRequest"];
            };
        };
        responses: {
            /** @description The webhook with its signing secret */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The webhook, without its secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_delete: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The deleted webhook */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_pause: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The webhook */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_resume: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The webhook */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_rotate: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "overlap_s": 86400
                 *     }
                 */
                "application/json": components["schemas"]["HookRotateRequest"];
            };
        };
        responses: {
            /** @description The webhook with its new secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EndpointView"];
                };
            };
        };
    };
    webhooks_show_secret: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HookSecretView"];
                };
            };
        };
    };
    webhooks_show_signing_secret: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The secret of the caller's key */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HookSecretView"];
                };
            };
        };
    };
    webhooks_new_signing_secret: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                name: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "overlap_s": 86400
                 *     }
                 */
                "application/json": components["schemas"]["HookRotateRequest"];
            };
        };
        responses: {
            /** @description The new secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HookSecretView"];
                };
            };
        };
    };
    webhooks_list_deliveries: {
        parameters: {
            query?: {
                /** @description of this task */
                task?: string;
                /** @description to this webhook */
                endpoint?: string;
                /** @description State of a delivery. */
                state?: "delivered" | "failed" | "skipped" | "waiting";
                limit?: number;
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of deliveries, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliveryList"];
                };
            };
        };
    };
    webhooks_get_delivery: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The delivery with its attempts */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliveryView"];
                };
            };
        };
    };
    webhooks_replay: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The delivery, due now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliveryView"];
                };
            };
        };
    };
    webhooks_replay_failed: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "since": "2026-11-26T12:00:00Z"
                 *     }
                 */
                "application/json": components["schemas"]["HookReplayRequest"];
            };
        };
        responses: {
            /** @description The number of deliveries */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HookReplayView"];
                };
            };
        };
    };
    tasks_list_dead: {
        parameters: {
            query?: {
                /** @description `owner/name` */
                model?: string;
                /** @description `cursor` of the previous page */
                cursor?: string;
                /** @description tasks on a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Tasks that failed their last attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskList"];
                };
            };
        };
    };
    tasks_replay: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The ended task */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
            /** @description The new task */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskView"];
                };
            };
        };
    };
    tasks_replay_many: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "model": "demo/upper"
                 *     }
                 */
                "application/json": components["schemas"]["DeadReplayRequest"];
            };
        };
        responses: {
            /** @description The result for each */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeadReplayView"];
                };
            };
        };
    };
    operators_list_queues: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Queues that are not empty */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QueueList"];
                };
            };
        };
    };
    operators_list_workers: {
        parameters: {
            query?: {
                /** @description include workers that have exited */
                gone?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Workers, oldest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WorkerList"];
                };
            };
        };
    };
    operators_drain_worker: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The worker; it finishes its tasks and exits */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WorkerView"];
                };
            };
        };
    };
    operators_list_keys: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Keys, without their secrets */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["KeyList"];
                };
            };
        };
    };
    operators_make_key: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "name": "shop",
                 *       "scopes": [
                 *         "client"
                 *       ]
                 *     }
                 */
                "application/json": components["schemas"]["KeyRequest"];
            };
        };
        responses: {
            /** @description The key with its secret, shown only now */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["NewKeyView"];
                };
            };
        };
    };
    operators_new_secret: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "overlap_s": 3600
                 *     }
                 */
                "application/json": components["schemas"]["RotateRequest"];
            };
        };
        responses: {
            /** @description The key with its new secret, shown only now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["NewKeyView"];
                };
            };
        };
    };
    operators_rotate_signing: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "revoke": false
                 *     }
                 */
                "application/json": components["schemas"]["RotateSigningRequest"];
            };
        };
        responses: {
            /** @description When the new secret takes effect */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["SigningView"];
                };
            };
        };
    };
    operators_list_audit: {
        parameters: {
            query?: {
                /** @description `cursor` of the previous page */
                cursor?: string;
                /** @description entries on a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of entries, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AuditList"];
                };
            };
        };
    };
    operators_revoke_key: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The revoked key */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["KeyView"];
                };
            };
        };
    };
    startups_list_pools: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Pools by name */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PoolList"];
                };
            };
        };
    };
    startups_list_ledger: {
        parameters: {
            query?: {
                limit?: number;
                /** @description `cursor` of the previous page */
                cursor?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Entries, latest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["LedgerList"];
                };
            };
        };
    };
    scaling_show_scaling: {
        parameters: {
            query?: {
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Its state and latest decisions */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScalingView"];
                };
            };
        };
    };
    costs_show_costs: {
        parameters: {
            query?: {
                from?: string;
                to?: string;
                /** @description grouping */
                by?: "day" | "key" | "model" | "pool" | "user";
                /** @description number of rows, highest cost first; `others` is the rest */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Costs and their total */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["CostsList"];
                };
            };
        };
    };
    accounts_list_quotas: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Quotas and their remainder */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QuotaList"];
                };
            };
        };
    };
    accounts_put_quota: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "key_id": "k1",
                 *       "user": "*",
                 *       "samples_per_day": 50
                 *     }
                 */
                "application/json": components["schemas"]["QuotaRequest"];
            };
        };
        responses: {
            /** @description The quota and its remainder */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QuotaView"];
                };
            };
        };
    };
    accounts_drop_quota: {
        parameters: {
            query?: {
                /** @description of the key */
                key_id?: string;
                /** @description of the quota */
                user?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description An empty list */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QuotaList"];
                };
            };
        };
    };
    accounts_list_credits: {
        parameters: {
            query?: {
                /** @description only this key */
                key_id?: string;
                /** @description number of grants, newest first */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Accounts and grants */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["CreditsList"];
                };
            };
        };
    };
    accounts_add_credits: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                /**
                 * @example {
                 *       "key_id": "k1",
                 *       "micros": 5000000,
                 *       "id": "inv-7"
                 *     }
                 */
                "application/json": components["schemas"]["CreditRequest"];
            };
        };
        responses: {
            /** @description This id was granted before */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["GrantView"];
                };
            };
            /** @description The new balance */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["GrantView"];
                };
            };
        };
    };
    operators_own_key: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The key, without its secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["KeyView"];
                };
            };
        };
    };
    operators_health_live: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description It answers */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HealthView"];
                };
            };
        };
    };
    operators_health_ready: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description They can be served */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HealthView"];
                };
            };
        };
    };
    operators_show_metrics: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Text exposition format */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/plain; version=0.0.4; charset=utf-8": unknown;
                };
            };
        };
    };
    pages_openapi_json: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description OpenAPI 3.1 */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": Record<string, unknown>;
                };
            };
        };
    };
    pages_llms_txt: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Markdown */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/plain; charset=utf-8": unknown;
                };
            };
        };
    };
}
