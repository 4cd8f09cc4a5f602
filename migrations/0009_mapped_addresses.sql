-- An IPv4 address mapped into IPv6 names the user that the IPv4 address names. Accounts whose external id is a mapped one
-- take the IPv4 address, where no account bears it; of several the oldest does. The hash stays: it is of the text by which
-- the account was known, and under it an erased user is recognised.
SET search_path = ledger, public;

DO $$
DECLARE
    mapped RECORD;
    address INET;
    ipv4 TEXT;
BEGIN
    FOR mapped IN
        SELECT user_id, external_id FROM public.users
        WHERE external_id ~ '^[0:][0-9A-Fa-f:]+$'
            -- PostgreSQL also reads 192.0.2 and 192.0.2.010; to us they are no addresses.
            OR external_id ~ '^[0:][0-9A-Fa-f:]*:((0|[1-9][0-9]*)[.]){3}(0|[1-9][0-9]*)$'
        ORDER BY created_at, user_id
    LOOP
        BEGIN
            address := mapped.external_id::inet;
        EXCEPTION WHEN invalid_text_representation THEN
            CONTINUE;
        END;
        CONTINUE WHEN family(address) <> 6 OR NOT address << '::ffff:0:0/96'::inet;
        ipv4 := host('0.0.0.0'::inet + (address - '::ffff:0:0'::inet));
        UPDATE public.users SET external_id = ipv4
        WHERE user_id = mapped.user_id AND NOT EXISTS (SELECT FROM public.users WHERE external_id = ipv4);
    END LOOP;
END
$$;
