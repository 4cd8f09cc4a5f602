-- An idempotency key belongs to a principal in one role: a user's request is not answered with what the same account was
-- told as an admin.
ALTER TABLE public.idempotency_keys
    ADD COLUMN role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'service', 'admin'));
ALTER TABLE public.idempotency_keys DROP CONSTRAINT idempotency_keys_pkey;
ALTER TABLE public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, role, method, path, key);

-- In which role an earlier key was used is not known. For the day that it is still kept it is every role's, with its
-- event's id and its request's hash, so that a request which is sent again across this migration counts once. Not with
-- what was answered: the other roles' requests are done again.
INSERT INTO public.idempotency_keys
    (principal, role, method, path, key, body_hash, event_id, locked_until, created_at)
SELECT principal, role.name, method, path, key, body_hash, event_id, locked_until, created_at
FROM public.idempotency_keys, (VALUES ('service'), ('admin')) AS role (name);
